"""`--set KEY=VALUE`: one setting of a config replaced on the command line."""

import json
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from experts.errors import Fault
from experts.yaml_io import Position, Positions, RawSettings, parse_yaml


def apply_override(raw: RawSettings, override: str, positions: Positions | None = None) -> None:
    """Apply one `key=value` to a raw config; the key is dotted, the value is YAML.

    Args:
        positions: where the values of the config were written; updated.

    Raises:
        Fault: if the override does not have that form.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise Fault("--set key=value", repr(override), "write for example --set stages.joint.lr=1e-4")
    *path, last = key.split(".")
    section = raw
    for depth, part in enumerate(path):
        if part == "domains" and depth == 0:
            raw["domains"] = domain_mapping(raw.get("domains"))
        if not isinstance(section.get(part), dict):
            section[part] = {}
        section = section[part]
    try:
        document = parse_yaml(value)
    except ValueError as error:
        reason = str(error).removeprefix("line 1: ")
        raise Fault(f"a YAML value in --set {override[:80]}", reason, "quote the value if it is text") from error
    section[last] = document.value
    if positions is not None:
        location = (*path, last)
        for inner in [inner for inner in positions if inner[: len(location)] == location]:
            del positions[inner]
        where = override_position(override)
        positions.update(
            {(*location, *inner): Position(where, position.text) for inner, position in document.positions.items()}
        )


def override_strings(overrides: Mapping[str, Any]) -> Iterator[str]:
    """Yield nested settings, such as `{"stages": {"joint": {"lr": 1e-4}}}`, as `stages.joint.lr=0.0001`, …

    Raises:
        Fault: for a value that is neither text, a number, true, false, null, a list nor a mapping.
    """
    for key, value in overrides.items():
        if isinstance(value, Mapping) and value:
            yield from (f"{key}.{inner}" for inner in override_strings(value))
            continue
        try:
            yield f"{key}={json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)}"
        except TypeError as error:
            raise Fault(
                "a setting's value as text, a number, true, false, null, a list or a mapping",
                f"{key}={value!r}",
                "convert it",
            ) from error


def override_position(override: str) -> str:
    """Name an override as the place of a value in an error message."""
    return f"--set {override[:80]}"


def domain_mapping(domains: Any) -> dict[Any, Any]:
    """`domains` as a mapping, if it is a list of names."""
    if isinstance(domains, list):
        return {name if isinstance(name, Hashable) else str(name): None for name in domains}
    return dict(domains) if isinstance(domains, dict) else {}
