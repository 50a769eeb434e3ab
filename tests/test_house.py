"""Claims about the house: which way imports point, and what no module of ours does."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS, OURS = ("experts", "router"), ("experts", "router", "moe", "cli")
FILES = [ROOT / "cli.py", *(path for part in (*PARTS, "moe") for path in sorted((ROOT / part).rglob("*.py")))]
MOST_LINES = 350
Tree = ast.Module


def name_of(path: Path) -> str:
    """The dotted name of a module's file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES: dict[str, Tree] = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


DESK = [name for name in TREES if name == "cli" or name.startswith("moe.desk")]
"""Where commands stand: they alone import inside functions, so that help answers at once."""


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a tree imports, wherever in it: of `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which way they point"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    """The package or module at the top of a dotted name."""
    return name.split(".")[0]


def arrows(module: str) -> set[str]:
    """The modules of ours that a module imports: the deepest that exists, so `from moe import x` means `moe.x`."""
    found = {name for name in imported(TREES[module]) if name in TREES}
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)} - {module}


def within(package: str) -> list[str]:
    """The modules of a package."""
    return [name for name in TREES if top(name) == package]


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_neither_each_other_nor_the_workshop(part: str) -> None:
    strangers = set(OURS) - {part}
    wrong = [f"{name} imports {one}" for name in within(part) for one in imported(TREES[name]) if top(one) in strangers]
    assert not wrong


def test_the_workshop_never_imports_the_front_desk() -> None:
    assert not [name for name in within("moe") if "cli" in map(top, imported(TREES[name]))]


def test_the_workshop_never_imports_the_commands() -> None:
    commands = [f"{name} imports {one}" for name in within("moe") if name not in DESK for one in arrows(name)]
    assert not [line for line in commands if line.split()[-1] in DESK]


@pytest.mark.parametrize("name", DESK)
def test_the_front_desk_imports_the_workshop_alone(name: str) -> None:
    allowed = {"moe", "typer", "rich"} | sys.stdlib_module_names
    assert set(map(top, imported(TREES[name]))) <= allowed


@pytest.mark.parametrize("name", DESK)
def test_the_front_desk_imports_the_workshop_only_inside_commands(name: str) -> None:
    at_load = [node for node in TREES[name].body if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = {one for node in at_load for one in imported(node) if top(one) == "moe"} & TREES.keys()
    assert ours <= {"moe", *DESK}


def test_imports_never_run_in_a_circle() -> None:
    graph = {name: arrows(name) for name in TREES}
    while True:
        wanted = {target for targets in graph.values() for target in targets}
        free = [name for name, targets in graph.items() if not targets & graph.keys() or name not in wanted]
        if not free:
            break
        for name in free:
            del graph[name]
    assert not graph, f"a circle among {sorted(graph)}"


def test_no_import_of_ours_hides_in_a_function() -> None:
    functions = [
        (name, node)
        for part in (*PARTS, "moe")
        for name in within(part)
        if name not in DESK
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef)
    ]
    assert functions
    hidden = [f"{name}.{node.name}" for name, node in functions if set(map(top, imported(node))) & set(OURS)]
    assert not hidden


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_says_what_it_holds(path: Path) -> None:
    assert ast.get_docstring(TREES[name_of(path)])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_module_outgrows_one_subject(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not [name for name in TREES if name.split(".")[-1] in ("utils", "util", "helpers", "misc", "common")]


def test_functions_stay_small() -> None:
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    )
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[len(lengths) * 95 // 100] <= 40


def test_every_table_is_one_that_fits_narrow_terminals() -> None:
    drawn = [name for name, tree in TREES.items() if "rich.table.Table" in set(imported(tree))]
    assert not drawn, "import Table from moe.tables"


def test_no_module_touches_a_pickle() -> None:
    assert not [name for name, tree in TREES.items() if {"pickle", "joblib", "dill"} & set(map(top, imported(tree)))]


@pytest.mark.parametrize("verb", ["load", "save"])
def test_no_module_loads_or_saves_by_torch(verb: str) -> None:
    def called(tree: Tree) -> bool:
        return any(
            isinstance(node, ast.Attribute)
            and node.attr == verb
            and isinstance(node.value, ast.Name)
            and node.value.id == "torch"
            for node in ast.walk(tree)
        )

    assert not [name for name, tree in TREES.items() if called(tree)]


def test_no_module_trusts_remote_code() -> None:
    words = [
        (name, node.value)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
    ]
    assert words, "nothing is looked at: the search is broken"
    assert not [name for name, value in words if not (isinstance(value, ast.Constant) and value.value is False)]


@pytest.mark.parametrize(
    ("modules", "needless"),
    [
        ("moe.opening, moe.result, moe.answer", {"peft", "datasets", "sklearn", "bitsandbytes", "tensorboard"}),
        ("moe.sample, moe.data.inspect", {"torch", "transformers", "datasets", "sklearn"}),
        (
            "moe.report_page, moe.report",
            {"torch", "transformers", "peft", "datasets", "sklearn", "matplotlib", "jinja2"},
        ),
        ("moe.judging, moe.evaluate", {"peft", "bitsandbytes", "tensorboard"}),
    ],
)
def test_a_command_imports_no_library_that_it_does_not_need(modules: str, needless: set[str]) -> None:
    code = f"import sys, {modules}; print(*sorted({needless} & sys.modules.keys()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not out.stdout.split()
