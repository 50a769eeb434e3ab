"""Domains of a config: each domain's own YAML file, merged with the keys that the config gives."""

import difflib
from pathlib import Path
from typing import Any

from experts.domain import SCORE
from experts.errors import Fault
from experts.yaml_io import Position, Positions, read_document
from moe.config.files import PACKAGED_CONFIGS, REPOSITORY_CONFIGS
from moe.config.overrides import domain_mapping

_OF_LABELS = ("labels", "label_map", "score_cuts")
"""Keys of a domain's file that a config replaces as a whole if it gives the task a score alone."""


def is_plain(name: str) -> bool:
    """Whether a domain's name can be that of a file: lower-case letters, digits, - and _."""
    letters = name.replace("_", "").replace("-", "")
    return len(name) <= 100 and letters.isalnum() and name.isascii() and name == name.lower()


def resolve_domains(domains: Any, source: Path, positions: Positions) -> dict[Any, Any]:
    """Merge each domain's own YAML file with the keys given in the config, which win; add the positions of its values.

    The file is `domains/NAME.yaml` next to the config, in its parent folder, or among the shipped ones.
    """
    names = domains if isinstance(domains, list) else ()
    for i, name in enumerate(names):
        if not isinstance(name, list | dict) and ("domains", i) in positions:
            positions["domains", name] = positions["domains", i]  # a name that is no text is refused later
    return {name: _resolve_domain(name, inline, source, positions) for name, inline in domain_mapping(domains).items()}


def _resolve_domain(name: Any, inline: Any, source: Path, positions: Positions) -> Any:
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
    dropped = _OF_LABELS if given.get("kind") == SCORE else ()
    for (key, *inner), position in (
        (location, position) for location, position in document.positions.items() if location
    ):
        if key not in given:
            positions["domains", name, key, *inner] = Position(f"{position} of {file}", position.text)
    return {key: value for key, value in document.value.items() if key not in dropped} | given
