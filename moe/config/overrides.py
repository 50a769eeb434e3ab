"""`--set KEY=VALUE`: one setting of a config replaced on the command line."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from experts.errors import Fault
from moe.config.yaml import parse_yaml

EXPONENT = re.compile(r"[+-]?\d+(\.\d+)?[eE][+-]?\d{1,2}")
"""A number that YAML 1.1 parses as a string, such as 1e-4."""


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Apply one `key=value` to a raw config; the key is dotted, the value is YAML.

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
    section[last] = _parse_value(value, override)


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
            yield f"{key}={json.dumps(list(value) if isinstance(value, tuple) else value)}"
        except TypeError as error:
            raise Fault(
                "a setting's value as text, a number, true, false, null, a list or a mapping",
                f"{key}={value!r}",
                "convert it",
            ) from error


def _parse_value(value: str, override: str) -> Any:
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        raise Fault("a YAML value after =", repr(override), "quote it") from error
    return float(parsed) if isinstance(parsed, str) and EXPONENT.fullmatch(parsed) else parsed


def domain_mapping(domains: Any) -> dict[str, Any]:
    """`domains` as a mapping, if it is a list of names."""
    if isinstance(domains, list):
        return {str(name): None for name in domains}
    return dict(domains) if isinstance(domains, dict) else {}
