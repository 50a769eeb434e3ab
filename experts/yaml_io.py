"""YAML, read from the parser's events with limits on size, depth and aliases, and with the line of every value.

Only what a config needs is read: mappings with text as keys, lists, texts, booleans, null, and decimal numbers. Forms
that YAML 1.1 reads as something unexpected (`010`, `0x1F`, `1:30`, dates), tags, repeated keys and a second document
are refused, so that a value is either what it looks like or an error with its line.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from experts.errors import Fault
from experts.yaml_scalars import MAX_DIGITS, find_trap, is_number, kind_of, resolve_plain

MAX_BYTES = 1_048_576
"""Size of a file; the largest config that ships has a hundredth of it."""
MAX_VALUES = 50_000
"""Keys and values of a file, an alias or merge key counted with all that it stands for."""
MAX_DEPTH = 32
"""Levels of mappings and lists."""
MAX_TRAPS = 5
"""Ambiguous values that one error message lists."""

RawSettings: TypeAlias = dict[str, Any]
"""A mapping as YAML holds it, before its keys and values are validated."""
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Only its events are used; libyaml's parser is the faster one."""
_TEXT_TAGS = {"!", "tag:yaml.org,2002:str"}
_COLLECTION_TAGS = {"!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
Location = tuple[str | int, ...]
"""Keys and indices from the top of a file to a value."""


@dataclass(frozen=True)
class Position:
    """Where a value was written.

    Args:
        where: in words, such as `line 3`.
        text: the value as written, if it is a plain value without quotes; None for a quoted text, mapping or list.
    """

    where: str
    text: str | None = None

    def __str__(self) -> str:
        return self.where


Positions = dict[Location, Position]


@dataclass(frozen=True)
class YamlDocument:
    """A parsed file.

    Args:
        value: mappings, lists, texts, numbers, booleans and None.
        positions: where each of its values was written; copies made by an alias or a merge key have none.
    """

    value: Any
    positions: Positions


def parse_yaml(text: str) -> YamlDocument:
    """Parse a YAML text.

    Raises:
        ValueError: if it is not YAML, is ambiguous, or is too large or too deep, with the line.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")
    builder = _Builder()
    for event in _events(text):
        builder.add(event)
    if builder.traps:
        more = len(builder.traps) - MAX_TRAPS
        raise ValueError("; ".join(builder.traps[:MAX_TRAPS]) + (f"; and {more} more" if more > 0 else ""))
    return YamlDocument(builder.root, builder.positions)


def read_document(path: Path) -> YamlDocument:
    """Read a YAML file that holds a mapping, with the positions of its values.

    Raises:
        Fault: if the file cannot be read or parsed, or holds something else.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        document = parse_yaml(_decode(content))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Fault(f"a YAML file at {path}", reason, "fix the file or choose another one") from error
    if not isinstance(document.value, dict):
        raise Fault(f"a YAML mapping in {path}", type(document.value).__name__, "write key: value lines")
    return document


def read_yaml(path: Path) -> RawSettings:
    """Read a YAML file that holds a mapping.

    Raises:
        Fault: as `read_document`.
    """
    value: RawSettings = read_document(path).value
    return value


def _decode(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: bytes that are not UTF-8: save it as UTF-8") from error


def _events(text: str) -> Iterator[Any]:
    """Yield the parser's events; whatever it raises is about its input, and becomes one sentence."""
    try:
        yield from yaml.parse(text, _PARSER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}"[:160]) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"no valid YAML: {reason}"[:160]) from error


@dataclass
class _Node:
    """A mapping or list that is being built.

    Args:
        value: its content so far.
        location: its keys and indices.
        line: from 1.
        anchor: its name for aliases.
        before: number of values before it.
        key: in a mapping, the key whose value comes next.
        merged: in a mapping, the values of its merge key.
    """

    value: Any
    location: Location
    line: int
    anchor: str | None
    before: int
    key: Any = None
    merged: list[dict[str, Any]] | None = None


@dataclass
class _Builder:
    """Builds the value of a document from events, and counts before it builds."""

    root: Any = None
    positions: Positions = field(default_factory=dict)
    traps: list[str] = field(default_factory=list)
    count: int = 0
    documents: int = 0
    stack: list[_Node] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)

    def add(self, event: Any) -> None:
        """Add an event."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise ValueError(f"line {line}: a second document; leave out the line ---")
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise ValueError(f"line {line}: the alias *{str(event.anchor)[:40]} stands for itself or for nothing")
            value, size = self.anchors[event.anchor]
            self._count(size, line)
            self._attach(copy.deepcopy(value), Position(f"line {line}"), line)
        elif isinstance(event, yaml.ScalarEvent):
            self._count(1, line)
            self._add_scalar(event, line)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._count(1, line)
            self._open({} if isinstance(event, yaml.MappingStartEvent) else [], event, line)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._close()

    def _count(self, values: int, line: int) -> None:
        self.count += values
        if self.count > MAX_VALUES:
            raise ValueError(f"line {line}: more than {MAX_VALUES:,} values, aliases expanded")

    def _add_scalar(self, event: Any, line: int) -> None:
        plain = not event.style and event.tag is None
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            raise ValueError(f"line {line}: the tag {_short_tag(event.tag)}; write the value without a tag")
        value = self._resolve(event.value, line) if plain else event.value
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, 1)
        self._attach(value, Position(f"line {line}", event.value if plain else None), line)

    def _resolve(self, text: str, line: int) -> Any:
        if self._expects_key() and text == "<<":
            return _MERGE
        if trap := find_trap(text):
            self.traps.append(f"line {line}: {text[:40]} is {trap}")
            return text
        if len(text) > MAX_DIGITS and is_number(text):
            raise ValueError(f"line {line}: a number of {len(text):,} digits; at most {MAX_DIGITS}")
        return resolve_plain(text)

    def _expects_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None

    def _open(self, value: Any, event: Any, line: int) -> None:
        if event.tag is not None and event.tag not in _COLLECTION_TAGS:
            raise ValueError(f"line {line}: the tag {_short_tag(event.tag)}; write the value without a tag")
        if self._expects_key():
            raise ValueError(f"line {line}: a mapping or list as a key; quote it if it is text")
        if len(self.stack) >= MAX_DEPTH:
            raise ValueError(f"line {line}: values nested more than {MAX_DEPTH} levels deep")
        self.stack.append(_Node(value, self._location(), line, event.anchor, self.count - 1))

    def _location(self) -> Location:
        if not self.stack:
            return ()
        node = self.stack[-1]
        return (*node.location, len(node.value) if isinstance(node.value, list) else str(node.key))

    def _close(self) -> None:
        node = self.stack.pop()
        value = node.value
        if node.merged is not None:
            inherited: dict[str, Any] = {}
            for mapping in reversed(node.merged):  # the first of several mappings has precedence
                inherited |= mapping
            value = inherited | value
        if node.anchor is not None:
            self.anchors[node.anchor] = (value, self.count - node.before)
        self._attach(value, Position(f"line {node.line}"), node.line)

    def _attach(self, value: Any, position: Position, line: int) -> None:
        """Add a finished value to the mapping or list that it is part of."""
        if not self.stack:
            self.root, self.positions[()] = value, position
        elif self._expects_key():
            self._add_key(value, position, line)
        else:
            node = self.stack[-1]
            if isinstance(node.value, list):
                self.positions[(*node.location, len(node.value))] = position
                node.value.append(value)
            elif node.key is _MERGE:
                node.merged = _merged_mappings(value, line)
            else:
                self.positions[(*node.location, str(node.key))] = position
                node.value[node.key] = value
            node.key = None

    def _add_key(self, key: Any, position: Position, line: int) -> None:
        node = self.stack[-1]
        written = position.text or ""
        if not isinstance(key, str) and key is not _MERGE:
            shown = f"the key {written[:40]}, which YAML reads as {kind_of(key)}" if written else "an empty key"
            self.traps.append(f"line {line}: {shown}: quote it")
            key = written
        if key in node.value or (key is _MERGE and node.merged is not None):
            raise ValueError(f"line {line}: duplicate key {(written or str(key))[:40]!r}")
        node.key = key


_MERGE = object()
"""A merge key, `<<`."""


def _short_tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")[:60]


def _merged_mappings(value: Any, line: int) -> list[dict[str, Any]]:
    mappings = value if isinstance(value, list) else [value]
    if not all(isinstance(mapping, dict) for mapping in mappings):
        raise ValueError(f"line {line}: a merge key << without a mapping; write <<: *NAME")
    return mappings
