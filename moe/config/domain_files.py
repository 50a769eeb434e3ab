"""Domains of a config: each domain's own YAML file, merged with the keys that the config gives."""

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from experts.errors import Fault
from experts.yaml_io import Place, Places, read_document
from moe.config.files import PACKAGED_CONFIGS, REPOSITORY_CONFIGS
from moe.config.overrides import domain_mapping


def is_plain(name: str) -> bool:
    """Whether a domain's name can be that of a file: lower-case letters, digits, - and _."""
    letters = name.replace("_", "").replace("-", "")
    return len(name) <= 100 and letters.isalnum() and name.isascii() and name == name.lower()


def resolve_domains(domains: Any, source: Path, places: Places) -> dict[Any, Any]:
    """Merge each domain's own YAML file with the keys given in the config, which win; add the places of its values.

    The file is `domains/NAME.yaml` next to the config, in its parent folder, or among the shipped ones.
    """
    names = domains if isinstance(domains, list) else ()
    for i, name in enumerate(names):
        if isinstance(name, Hashable) and ("domains", i) in places:
            places["domains", name] = places["domains", i]  # type: ignore[index]  # a boolean or None is refused later
    return {name: _resolve_domain(name, inline, source, places) for name, inline in domain_mapping(domains).items()}


def _resolve_domain(name: Any, inline: Any, source: Path, places: Places) -> Any:
    if (inline is not None and not isinstance(inline, dict)) or not isinstance(name, str) or not is_plain(name):
        return inline or {}  # validation will report what is wrong, with all other errors
    roots = (source.parent, source.parent.parent, REPOSITORY_CONFIGS, PACKAGED_CONFIGS)
    folders = [root / "domains" for root in roots]
    file = next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)
    if file is None and inline is None:
        known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
        near = difflib.get_close_matches(name, known, n=1)
        raise Fault(
            expected=f"a file domains/{name}.yaml, or settings of the domain in {source.name}",
            found=f"neither for {name!r}",
            remedy=f"did you mean {near[0]}" if near else f"create one of them (known domains: {', '.join(known)})",
        )
    if file is None:
        return inline
    document, given = read_document(file), inline or {}
    for (key, *inner), place in ((location, place) for location, place in document.places.items() if location):
        if key not in given:
            places["domains", name, key, *inner] = Place(f"{place} of {file}", place.text)
    return document.value | given
