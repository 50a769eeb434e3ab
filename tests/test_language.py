"""Claims about names and words: class names are unique, variables are nouns, texts use the terms of the field."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = [path for part in ("experts", "router", "moe") for path in sorted((ROOT / part).rglob("*.py"))]
CODE = [*SOURCE, *(path for part in ("benchmarks", "tests", "docs") for path in sorted((ROOT / part).rglob("*.py")))]
PAGES = [
    *ROOT.glob("*.md"),
    *(path for part in ("docs", "benchmarks", ".github") for path in sorted((ROOT / part).rglob("*.md"))),
    *(path for ending in ("html", "js", "md") for path in sorted((ROOT / "moe").rglob(f"*.{ending}"))),
]
VAGUE_NAMES = {"one", "found", "told", "said", "whole", "place", "kept", "asked"}
VAGUE_WORDS = re.compile(
    r"\b(tells?|told|telling|foretells?|foretold|foresee\w*|said|anew|lay|laid|judg(?:e[sd]?|ing)|honesty|hangs? on"
    r"|pass(?:es|ed) over|whole of|meanwhile|mend(?:s|ed|ing)?|newcomers?|asked)\b",
    re.IGNORECASE,
)
DATA = {
    ROOT / "moe" / "augment" / "prompts.py",
    ROOT / "moe" / "data" / "prompt_templates.py",
    *(ROOT / "moe" / "synthetic").glob("*.py"),
    Path(__file__).resolve(),
}
"""Files whose strings are data: prompts for language models and the words of the synthetic sample; and this test."""
EXCEPTIONS = {
    ("experts/errors.py", "found"),
    ("moe/data/schema.py", "found"),
    ("moe/serve/errors.py", "found"),
    ("moe/augment/results.py", "kept"),
    ("moe/drift/drift.py", "whole"),
    ("moe/qa/evaluate.py", "said"),
}
"""`Fault(expected, found, remedy)` names the parts of its sentence; the others are a CSV column and JSON keys."""

EXAMPLES = re.compile("said my broke cousin|The bank said that")
"""Phrases of example texts, which are data."""


def named(path: Path) -> str:
    """A path as the project shows it."""
    return path.relative_to(ROOT).as_posix()


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The variables and parameters that a module binds, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def strings_and_comments(source: str) -> Iterator[tuple[int, str]]:
    """The lines of a module's docstrings, strings and comments."""
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds:
            yield from enumerate(token.string.splitlines(), token.start[0])


def vague_words(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The lines that hold a vague word, with that word."""
    yield from ((number, match[0]) for number, line in lines for match in VAGUE_WORDS.finditer(EXAMPLES.sub("", line)))


def test_class_names_are_unique() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in SOURCE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(named(path))
    assert len(homes) > 100
    assert not {name: places for name, places in homes.items() if len(places) > 1}


@pytest.mark.parametrize("path", CODE, ids=named)
def test_variables_are_nouns_that_say_what_they_hold(path: Path) -> None:
    bound = bound_names(ast.parse(path.read_text(encoding="utf-8")))
    assert not [(line, name) for line, name in bound if name in VAGUE_NAMES and (named(path), name) not in EXCEPTIONS]


@pytest.mark.parametrize("path", [path for path in CODE if path not in DATA], ids=named)
def test_docstrings_comments_and_messages_use_the_terms_of_the_field(path: Path) -> None:
    words = vague_words(strings_and_comments(path.read_text(encoding="utf-8")))
    assert not [(line, word) for line, word in words if (named(path), word) not in EXCEPTIONS]


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_documents_and_pages_use_the_terms_of_the_field(path: Path) -> None:
    assert not list(vague_words(enumerate(path.read_text(encoding="utf-8").splitlines(), 1)))


def test_vague_names_and_words_are_recognized() -> None:
    assert list(bound_names(ast.parse("found = [one for one in range(3)]"))) == [(1, "found"), (1, "one")]
    lines = strings_and_comments('"""What the router said."""\nx = 1  # judged anew\n')
    assert list(vague_words(lines)) == [(1, "said"), (2, "judged"), (2, "anew")]
