"""Tests of the code's structure: directions of imports, sizes of modules, and forbidden calls."""

import ast
import importlib
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
MAX_LINES, MAX_FILES = 350, 15
Tree = ast.Module


def module_name(path: Path) -> str:
    """Return the dotted name of a module's file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES: dict[str, Tree] = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


COMMANDS = [name for name in TREES if name.startswith("moe.commands")]
"""Modules of the command line; only they import inside functions, to keep `--help` fast."""


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names imported anywhere in a tree; for `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "use absolute imports, which show their direction"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_package(name: str) -> str:
    """Return the first part of a dotted name."""
    return name.split(".")[0]


def imported_modules(module: str) -> set[str]:
    """Return the project's modules that a module imports; `from moe import x` imports `moe.x` if that is a module."""
    targets = {name for name in imported_names(TREES[module]) if name in TREES}
    return {name for name in targets if not any(other.startswith(f"{name}.") for other in targets)} - {module}


def modules_of(package: str) -> list[str]:
    """Return the modules of a package."""
    return [name for name in TREES if top_package(name) == package]


def room_of(module: str) -> str:
    """Return the room of a module: `experts`, `router`, `cli`, or the first level inside `moe`."""
    return ".".join(module.split(".")[:2]) if top_package(module) == "moe" else top_package(module)


def find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return a cycle of a graph in order; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("part", PARTS)
def test_imports_of_experts_and_router_reach_neither_each_other_nor_moe(part: str) -> None:
    forbidden = set(OURS) - {part}
    wrong = [
        f"{name} imports {target}"
        for name in modules_of(part)
        for target in imported_names(TREES[name])
        if top_package(target) in forbidden
    ]
    assert not wrong


def test_imports_of_moe_never_reach_the_entry_point() -> None:
    assert not [name for name in modules_of("moe") if "cli" in map(top_package, imported_names(TREES[name]))]


def test_imports_of_cli_reach_only_the_commands() -> None:
    assert imported_modules("cli") == {"moe.commands.main"}


def test_imports_of_other_rooms_never_reach_the_commands() -> None:
    others = [name for name in modules_of("moe") if name not in (*COMMANDS, "moe.__main__")]
    assert not [
        f"{name} imports {target}" for name in others for target in imported_modules(name) if target in COMMANDS
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_imports_of_commands_reach_only_moe_and_terminal_libraries(name: str) -> None:
    allowed = {"moe", "typer", "rich"} | sys.stdlib_module_names
    assert set(map(top_package, imported_names(TREES[name]))) <= allowed


@pytest.mark.parametrize("name", COMMANDS)
def test_imports_of_commands_at_module_level_reach_only_commands(name: str) -> None:
    at_load = [node for node in TREES[name].body if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = {
        target for node in at_load for target in imported_names(node) if top_package(target) == "moe"
    } & TREES.keys()
    assert ours <= {"moe", *COMMANDS}


def test_imports_between_files_form_no_cycle() -> None:
    assert not find_cycle({name: imported_modules(name) for name in TREES})


def test_imports_between_rooms_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for name in TREES:
        if name != "moe":  # its public names are imported lazily, from any room
            graph.setdefault(room_of(name), set()).update(
                {room_of(target) for target in imported_modules(name)} - {room_of(name)}
            )
    assert len(graph) > 20
    assert not find_cycle(graph)


def test_cycle_check_finds_a_cycle() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_rooms_hold_several_files_and_the_top_level_stays_short() -> None:
    files = [path for path in (ROOT / "moe").iterdir() if path.is_file()]
    assert len(files) <= MAX_FILES
    folders = [path for path in (ROOT / "moe").rglob("*") if (path / "__init__.py").is_file()]
    sizes = {module_name(path / "__init__.py"): len(list(path.glob("*.py"))) for path in folders}
    assert not {name: size for name, size in sizes.items() if not 4 <= size <= 21}


def test_rooms_have_docstrings_of_two_sentences() -> None:
    folders = [name for name in TREES if (ROOT / Path(*name.split(".")) / "__init__.py").is_file()]
    documents = {name: " ".join((ast.get_docstring(TREES[name]) or "").split()) for name in folders}
    assert not [name for name, text in documents.items() if len(re.findall(r"[.!](?= [A-Z]|$)", text)) < 2]


RUNTIME_CHOICE = ("moe.inference.load", "moe.api.model")
"""Modules that import the code of a runtime when it is chosen, so that the others do without torch."""


def test_functions_import_no_module_of_the_project() -> None:
    functions = [
        (name, node)
        for part in (*PARTS, "moe")
        for name in modules_of(part)
        if name not in (*COMMANDS, *RUNTIME_CHOICE)
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef)
    ]
    assert functions
    hidden = [
        f"{name}.{node.name}" for name, node in functions if set(map(top_package, imported_names(node))) & set(OURS)
    ]
    assert not hidden


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_modules_have_docstrings(path: Path) -> None:
    assert ast.get_docstring(TREES[module_name(path)])


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_modules_have_at_most_350_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_modules_have_no_catch_all_names() -> None:
    assert not [name for name in TREES if name.split(".")[-1] in ("utils", "util", "helpers", "misc", "common")]


def test_functions_are_short() -> None:
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    )
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[len(lengths) * 95 // 100] <= 40


def test_tables_are_those_that_fit_narrow_terminals() -> None:
    own_tables = [name for name, tree in TREES.items() if "rich.table.Table" in set(imported_names(tree))]
    assert not own_tables, "import Table from moe.console"


def test_modules_use_no_pickle() -> None:
    assert not [
        name
        for name, tree in TREES.items()
        if {"pickle", "joblib", "dill"} & set(map(top_package, imported_names(tree)))
    ]


@pytest.mark.parametrize("verb", ["load", "save"])
def test_modules_call_neither_torch_load_nor_torch_save(verb: str) -> None:
    def called(tree: Tree) -> bool:
        return any(
            isinstance(node, ast.Attribute)
            and node.attr == verb
            and isinstance(node.value, ast.Name)
            and node.value.id == "torch"
            for node in ast.walk(tree)
        )

    assert not [name for name, tree in TREES.items() if called(tree)]


def test_modules_never_trust_remote_code() -> None:
    settings = [
        (name, node.value)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
    ]
    assert settings, "no call sets trust_remote_code: the search is broken"
    assert not [name for name, value in settings if not (isinstance(value, ast.Constant) and value.value is False)]


RAW_VALUES = {
    "moe.api.model.from_pretrained": "settings as in a YAML file",
    "moe.config.messages.validate_settings": "settings before their validation",
    "moe.config.overrides.override_strings": "settings before their validation",
    "moe.config.run.parse_run": "settings before their validation",
    "moe.config.stages.fill_stage": "settings before their validation",
    "moe.runs.model_ref.card": "a card before its validation",
    "moe.training.callbacks.on_log": "signature of transformers' callbacks",
}
"""Functions that take JSON or YAML as it is, and what it is."""
UNTYPED = re.compile(r"\b(dict|Mapping)\[str, Any\]")


def public_functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield the functions, methods and properties without a leading underscore, outside private classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.startswith("_"):
            continue
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef | ast.If):
            yield from public_functions(node)


def untyped_signatures(tree: ast.AST) -> list[str]:
    """Return the public functions that take or return a mapping of values of any type."""
    return [
        function.name
        for function in public_functions(tree)
        for annotation in [
            function.returns,
            *(argument.annotation for argument in ast.walk(function.args) if isinstance(argument, ast.arg)),
        ]
        if annotation is not None and UNTYPED.search(ast.unparse(annotation))
    ]


def test_results_travel_as_objects() -> None:
    untyped = {f"{name}.{function}" for name in TREES for function in untyped_signatures(TREES[name])}
    assert untyped == RAW_VALUES.keys(), "declare a result in moe/results or in the room, and read its attributes"


def test_untyped_signatures_are_recognized() -> None:
    code = """
def returns() -> list[dict[str, Any]]: ...
def takes(x: int, *, report: Mapping[str, Any] | None = None) -> None: ...
def typed(metrics: dict[str, float]) -> "Report": ...
def _private(report: dict[str, Any]) -> None: ...
class Part:
    def method(self, **values: dict[str, Any]) -> None: ...
class _Part:
    def method(self, values: dict[str, Any]) -> None: ...
"""
    assert untyped_signatures(ast.parse(code)) == ["returns", "takes", "method"]


COMMAND_IMPORTS: tuple[tuple[str, set[str]], ...] = (
    (
        "moe.inference.load, moe.inference.stream",
        {"torch", "transformers", "peft", "datasets", "sklearn", "pyarrow"},
    ),
    (
        "moe.report.html, moe.report.terminal",
        {"torch", "transformers", "peft", "datasets", "sklearn", "matplotlib", "jinja2"},
    ),
    ("moe.synthetic, moe.data.profile", {"torch", "transformers", "datasets", "sklearn"}),
    (
        "moe.inference.load_mixture, moe.runs.model_ref, moe.inference.infer_command",
        {"peft", "datasets", "sklearn", "bitsandbytes", "tensorboard"},
    ),
    ("moe.evaluation.test_sets, moe.evaluation.evaluate", {"peft", "bitsandbytes", "tensorboard"}),
)
"""Modules that commands import, in this order, each with the libraries that must not be loaded by then."""


def test_commands_import_no_unnecessary_library() -> None:
    lines = [
        f"import {modules}; print(*sorted({needless} & sys.modules.keys()))" for modules, needless in COMMAND_IMPORTS
    ]
    code = "\n".join(["import sys", *lines])
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = dict(zip([modules for modules, _ in COMMAND_IMPORTS], out.stdout.splitlines(), strict=True))
    assert not any(loaded.values()), loaded


RUN_LAYOUT = "moe.runs.layout"
NAMES_ELSEWHERE = {"experts.cards": {"metrics.json"}}
"""Modules that define a name of another folder with the same spelling: of an expert's own metrics."""


def names_of_run_files() -> set[str]:
    """Return the values of the constants of the layout of a run's folder, those of its stages included."""
    layout = importlib.import_module(RUN_LAYOUT)
    values = [value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str | tuple)]
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}


def test_file_names_of_a_run_are_written_in_its_layout_only() -> None:
    names = names_of_run_files()
    assert {"result.json", "checkpoints", "moe-joint", "moe-instruct", "evaluation", "experts"} <= names
    wrong = []
    for module, tree in TREES.items():
        if module == RUN_LAYOUT or not module.startswith(("moe.", "experts.")):
            continue
        allowed = NAMES_ELSEWHERE.get(module, set())
        for node in ast.walk(tree):
            in_path = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
            literal = node.right if in_path else node  # type: ignore[attr-defined]
            is_name = isinstance(literal, ast.Constant) and literal.value in names - allowed
            if is_name and (in_path or Path(str(literal.value)).suffix):
                wrong.append(f"{module}:{literal.lineno} {literal.value!r}")
    assert not wrong
