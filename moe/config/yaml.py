"""YAML as we read it: safely, each key once, no deeper and no larger than a config can be.

What the keys mean is `moe.config.run`'s and `moe.sweep`'s.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from experts.errors import Fault

MAX_VALUES = 100_000
"""Values that a file may come to once its aliases are written out; a few lines of them can stand for billions."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that comes twice instead of forgetting the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As it is, with every key looked at first."""
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        raise yaml.constructor.ConstructorError(
                            None, None, f"the key {key.value[:40]!r} a second time", key.start_mark
                        )
                    seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: when it is no YAML, has a key twice, is nested too deep or comes to too much.
    """
    try:
        value = yaml.load(text, _Loader)
        size = _size(value, {})
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:160]) from error
    except RecursionError as error:
        raise ValueError("values nested too deep, or in themselves") from error
    if size > MAX_VALUES:
        raise ValueError(f"{size:,} values, aliases written out; at most {LARGEST:,}")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        Fault: when it is unreadable, or no mapping.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise Fault(f"a YAML file at {path}", reason, "mend the file or name another") from error
    if not isinstance(raw, dict):
        raise Fault(f"a YAML mapping in {path}", type(raw).__name__, "write key: value lines")
    return raw


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values there are in it, one that is named by aliases counted every time."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | set | tuple) else ()
    if id(value) not in known:
        known[id(value)] = 1 + sum(_size(one, known) for one in inner)
    return known[id(value)]
