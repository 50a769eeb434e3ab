"""Claims about the house: which way imports point, and what no module of ours does."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS, OURS = ("experts", "router"), ("experts", "router", "moe", "cli")
FILES = [ROOT / "cli.py", *(path for part in (*PARTS, "moe") for path in sorted((ROOT / part).rglob("*.py")))]
MOST_LINES, MOST_FILES = 350, 15
Tree = ast.Module


def name_of(path: Path) -> str:
    """The dotted name of a module's file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES: dict[str, Tree] = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


COMMANDS = [name for name in TREES if name.startswith("moe.commands")]
"""The modules of the command line. They alone import inside functions, so that `--help` stays fast."""


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
    targets = {name for name in imported(TREES[module]) if name in TREES}
    return {name for name in targets if not any(other.startswith(f"{name}.") for other in targets)} - {module}


def within(package: str) -> list[str]:
    """The modules of a package."""
    return [name for name in TREES if top(name) == package]


def room(module: str) -> str:
    """The room of a module: `experts`, `router`, `cli`, or the first level inside `moe`."""
    return ".".join(module.split(".")[:2]) if top(module) == "moe" else top(module)


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """One cycle of a graph, in order; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("part", PARTS)
def test_imports_of_experts_and_router_reach_neither_each_other_nor_moe(part: str) -> None:
    strangers = set(OURS) - {part}
    wrong = [
        f"{name} imports {target}"
        for name in within(part)
        for target in imported(TREES[name])
        if top(target) in strangers
    ]
    assert not wrong


def test_imports_of_moe_never_reach_the_entry_point() -> None:
    assert not [name for name in within("moe") if "cli" in map(top, imported(TREES[name]))]


def test_imports_of_cli_reach_the_commands_alone() -> None:
    assert arrows("cli") == {"moe.commands.main"}


def test_imports_of_other_rooms_never_reach_the_commands() -> None:
    others = [name for name in within("moe") if name not in (*COMMANDS, "moe.__main__")]
    assert not [f"{name} imports {target}" for name in others for target in arrows(name) if target in COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_imports_of_commands_reach_moe_and_the_terminal_libraries_alone(name: str) -> None:
    allowed = {"moe", "typer", "rich"} | sys.stdlib_module_names
    assert set(map(top, imported(TREES[name]))) <= allowed


@pytest.mark.parametrize("name", COMMANDS)
def test_imports_of_commands_at_load_reach_other_commands_alone(name: str) -> None:
    at_load = [node for node in TREES[name].body if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = {target for node in at_load for target in imported(node) if top(target) == "moe"} & TREES.keys()
    assert ours <= {"moe", *COMMANDS}


def test_imports_between_files_form_no_cycle() -> None:
    assert not cycle_in({name: arrows(name) for name in TREES})


def test_imports_between_rooms_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for name in TREES:
        if name != "moe":  # its public names are imported lazily, from any room
            graph.setdefault(room(name), set()).update({room(target) for target in arrows(name)} - {room(name)})
    assert len(graph) > 20
    assert not cycle_in(graph)


def test_cycle_check_finds_a_cycle() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_rooms_hold_several_files_and_the_top_level_stays_short() -> None:
    files = [path for path in (ROOT / "moe").iterdir() if path.is_file()]
    assert len(files) <= MOST_FILES
    folders = [path for path in (ROOT / "moe").rglob("*") if (path / "__init__.py").is_file()]
    sizes = {name_of(path / "__init__.py"): len(list(path.glob("*.py"))) for path in folders}
    assert not {name: size for name, size in sizes.items() if not 4 <= size <= 21}


def test_rooms_open_with_two_sentences() -> None:
    folders = [name for name in TREES if (ROOT / Path(*name.split(".")) / "__init__.py").is_file()]
    documents = {name: " ".join((ast.get_docstring(TREES[name]) or "").split()) for name in folders}
    assert not [name for name, text in documents.items() if len(re.findall(r"[.!](?= [A-Z]|$)", text)) < 2]


def test_no_import_of_ours_hides_in_a_function() -> None:
    functions = [
        (name, node)
        for part in (*PARTS, "moe")
        for name in within(part)
        if name not in COMMANDS
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef)
    ]
    assert functions
    hidden = [f"{name}.{node.name}" for name, node in functions if set(map(top, imported(node))) & set(OURS)]
    assert not hidden


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_have_docstrings(path: Path) -> None:
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
    assert not drawn, "import Table from moe.console"


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


COMMAND_IMPORTS: tuple[tuple[str, set[str]], ...] = (
    (
        "moe.report.html, moe.report.terminal",
        {"torch", "transformers", "peft", "datasets", "sklearn", "matplotlib", "jinja2"},
    ),
    ("moe.synthetic, moe.data.profile", {"torch", "transformers", "datasets", "sklearn"}),
    (
        "moe.inference.loading, moe.runs.best, moe.inference.infer_command",
        {"peft", "datasets", "sklearn", "bitsandbytes", "tensorboard"},
    ),
    ("moe.evaluation.test_sets, moe.evaluation.evaluate", {"peft", "bitsandbytes", "tensorboard"}),
)
"""Modules of commands, each imported after those above, and the libraries that neither it nor they need."""


def test_commands_import_no_library_that_they_do_not_need() -> None:
    lines = [
        f"import {modules}; print(*sorted({needless} & sys.modules.keys()))" for modules, needless in COMMAND_IMPORTS
    ]
    code = "\n".join(["import sys", *lines])
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = dict(zip([modules for modules, _ in COMMAND_IMPORTS], out.stdout.splitlines(), strict=True))
    assert not any(imported.values()), imported
