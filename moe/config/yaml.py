"""YAML, parsed safely: no key twice, and a bound on depth and size."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from experts.errors import Fault

MAX_VALUES = 100_000
"""Number of values that a file may expand to; with aliases a few lines can stand for billions."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also rejects duplicate keys instead of using the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping after checking that its keys are unique."""
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in keys:
                        raise yaml.constructor.ConstructorError(
                            None, None, f"duplicate key {key.value[:40]!r}", key.start_mark
                        )
                    keys.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        ValueError: if the text is invalid, has a duplicate key, is nested too deeply or expands to too many values.
    """
    try:
        value = yaml.load(text, _Loader)
        size = _count_values(value, {})
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:160]) from error
    except RecursionError as error:
        raise ValueError("values nested too deeply, or recursively") from error
    if size > MAX_VALUES:
        raise ValueError(f"{size:,} values after expanding aliases; at most {MAX_VALUES:,}")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        Fault: if the file cannot be read or parsed, or holds something else.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise Fault(f"a YAML file at {path}", reason, "fix the file or choose another one") from error
    if not isinstance(raw, dict):
        raise Fault(f"a YAML mapping in {path}", type(raw).__name__, "write key: value lines")
    return raw


def _count_values(value: Any, known: dict[int, int]) -> int:
    """Number of values in a structure, a shared one counted at every place where it occurs.

    Args:
        known: counts of values already visited, by id.
    """
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | set | tuple) else ()
    if id(value) not in known:
        known[id(value)] = 1 + sum(_count_values(item, known) for item in inner)
    return known[id(value)]
