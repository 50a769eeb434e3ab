"""Tests of the documents: the commands, settings and files that they show exist, and reference pages are complete."""

import inspect
import json
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from experts import expert_io as expert_folder
from experts.atomic_io import MANIFEST
from experts.yaml_io import read_yaml
from moe.checkpoints import mixture as mixture_folder
from moe.commands import main as cli
from moe.config.overrides import apply_override
from moe.config.run import RunSettings, load_run, parse_run
from moe.config.stages import STAGES, StageSettings, StagesSettings
from moe.report import html as report_page
from moe.runs import layout
from moe.runs import training_log as trajectory
from moe.serve.settings import ServeSettings
from moe.signals.settings import SignalSettings, read_signal_settings

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
FOLDERS = ("docs", "benchmarks", "configs", ".github")
PAGES = sorted({*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))})
SETTINGS, SERVING = ROOT / "docs" / "settings.md", ROOT / "docs" / "serving.md"
FILES = {".py", ".md", ".yaml", ".csv", ".json", ".safetensors"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
GROUP: Any = typer.main.get_command(cli.app)


def code_blocks(path: Path, language: str) -> list[str]:
    """Return the fenced code blocks of a page in a language."""
    return [body for kind, body in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def shown_commands(path: Path) -> list[list[str]]:
    """Return the words of every shell command on a page, without comments and redirections; pipes are split."""
    lines = [line for body in code_blocks(path, "bash") for line in body.splitlines()]
    commands: list[list[str]] = []
    for line in lines:
        parts: list[list[str]] = [[]]
        for word in shlex.split(line, comments=True):
            if word in ("|", "&&", ">"):
                parts.append([])
            else:
                parts[-1].append(word)
        commands += [part for part in parts if part]
    return commands


def moe_commands(path: Path) -> list[list[str]]:
    """Return the words after `moe` of every such command on a page."""
    return [words[1:] for words in shown_commands(path) if words[0] == "moe"]


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that these words call, and its arguments and options."""
    command, left = GROUP, list(words)
    flags = {option for parameter in GROUP.params for option in parameter.opts}
    while len(left) > 1 and left[0] in flags:  # such as --quiet, before the command
        left = left[1:]
    while hasattr(command, "commands") and left and left[0] in command.commands:
        command, left = command.commands[left[0]], left[1:]
    return command, left


def parameter_id(parameter: Any) -> str:
    """Return the name of a parameter in pytest's output."""
    return parameter.relative_to(ROOT).as_posix() if isinstance(parameter, Path) else " ".join(parameter)


SHOWN = [(path, words) for path in PAGES for words in moe_commands(path)]


# --- commands


@pytest.mark.parametrize(("path", "words"), SHOWN, ids=parameter_id)
def test_pages_show_only_existing_commands_and_options(path: Path, words: list[str]) -> None:
    command, left = resolve(words)
    assert command is not GROUP or left[0].startswith("--"), f"no such command: {left[0]}"
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    used = {word.split("=")[0] for word in left if re.match(r"--?[a-z]", word)}
    assert used <= known


@pytest.mark.parametrize(("path", "words"), SHOWN, ids=parameter_id)
def test_pages_show_only_valid_overrides(path: Path, words: list[str]) -> None:
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    config = next((ROOT / words[i + 1] for i, word in enumerate(words) if word == "--config"), None)
    if words[0] == "signal":
        assert read_signal_settings(None, sets)
    elif sets:
        assert load_run(config if config and config.is_file() else ROOT / "configs" / "demo.yaml", sets)


@pytest.mark.parametrize("path", PAGES, ids=parameter_id)
def test_pages_show_only_existing_make_targets(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    called = [words[words.index("make") + 1 :] for words in shown_commands(path) if "make" in words]
    assert {word for words in called for word in words} <= targets


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_readme_shows_the_make_targets_near_the_top(command: str) -> None:
    assert command in READMES[0].read_text(encoding="utf-8").splitlines()[:60]


@pytest.mark.parametrize(
    ("name", "max_lines"), [("README.md", 200), ("README.zh.md", 100), ("docs/benchmarks.md", 250)]
)
def test_landing_pages_stay_short(name: str, max_lines: int) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= max_lines


@pytest.mark.parametrize("path", READMES, ids=parameter_id)
def test_readme_results_agree_with_the_benchmarks(path: Path) -> None:
    measured = [cells(line) for line in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").splitlines()]
    figures = [{cell for cell in cells(row)[1:] if cell} for row in result_rows(path)]
    assert len(figures) > 3
    assert not [row for row in figures if not any(row <= set(others) for others in measured)]


BENCHMARK = re.compile(r"`python (benchmarks/\w+\.py)([^`]*)`")


RESULTS = [ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "speed.md"]


@pytest.mark.parametrize("path", RESULTS, ids=parameter_id)
def test_benchmarks_give_a_command_for_every_table(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert "not kept" not in page
    sections = re.split(r"^##+ ", page, flags=re.M)
    tables = [section.split("\n|")[0] for section in sections if "\n|---" in section]
    assert len(tables) > 1
    assert not [above.splitlines()[0] for above in tables if not BENCHMARK.search(above)]


@pytest.mark.parametrize("path", RESULTS, ids=parameter_id)
def test_benchmarks_show_only_existing_scripts_and_options(path: Path) -> None:
    commands = BENCHMARK.findall(path.read_text(encoding="utf-8"))
    assert not [script for script, _ in commands if not (ROOT / script).is_file()]
    for script, words in commands:
        source = (ROOT / script).read_text(encoding="utf-8")
        shared = [ROOT / "benchmarks" / f"{name}.py" for name in re.findall(r"^from (\w+) import", source, re.M)]
        source += "".join(path.read_text(encoding="utf-8") for path in shared if path.is_file())
        assert not [option for option in re.findall(r"--[a-z-]+", words) if f'"{option}"' not in source], script


def cells(row: str) -> list[str]:
    """Return the cells of a table row, without emphasis."""
    return [cell.strip(" *") for cell in row.strip("|").split("|")]


def result_rows(path: Path) -> list[str]:
    """Return the rows of a README's table of results."""
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [row for row in rows if re.search(r"\| [−+]?\d*\.\d", row)]


# --- repetition

MARK = re.compile(r"<!-- (?:help: (?P<scope>.*?)|end|output: .*?) -->")
RULE = re.compile(r"[\s|:-]+")  # the line under a table's header
PRINTED = re.compile(r"[┏┃┡│├└┌]|.*█")  # a row of a table or chart as printed in a terminal
TREE = re.compile(r"(?P<indent> *)(?P<name>[^\s,]+/|[\w-]+\.\w+)(?:  +\S.*)?")
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。!?])")
LIST = re.compile(r"[-*+] |\d+\. ")
STRUCTURAL, SHORT, WORDY = 40, 12, 20
"""Lengths in characters: longer code lines occur once in a document or block, longer sentences once in a document."""


def entries(text: str) -> Iterator[str]:
    """Yield what may occur once in a document: headings, lines, sentences, table rows and keys, tree entries, code."""
    lines, path = text.splitlines(), [""] * 7
    scope, paragraph, block = "", list[str](), 0  # scope: the command whose generated help this is
    while lines:
        line = lines.pop(0).strip()
        heading = re.match(r"(#+) ", line)
        if not line or heading or LIST.match(line) or line.startswith(("|", "```", "<!--")):
            yield from sentences(paragraph)
            paragraph = []
        if not line.startswith("|"):
            block += 1
        if mark := MARK.fullmatch(line):
            scope = mark["scope"] or ""
        elif line.startswith("```"):
            end = next((i for i, text in enumerate(lines) if text.strip() == "```"), len(lines))
            yield from code(line[3:], lines[:end], f"{scope} block {block}", scope)
            lines = lines[end + 1 :]
        elif heading:
            path[len(heading[1]) :] = [line] * (7 - len(heading[1]))
            yield " > ".join(dict.fromkeys(path))
        elif line.startswith("|"):
            header = bool(lines) and lines[0].startswith("|") and bool(RULE.fullmatch(lines[0]))
            if not header and not RULE.fullmatch(line):
                yield f"{scope} {line}"
                if key := re.match(r"\| (`[^|]*`) \|", line):
                    yield f"{scope} block {block} {key[1]}"
        elif line:
            paragraph.append(LIST.sub("", line, count=1))
    yield from sentences(paragraph)


def sentences(paragraph: Sequence[str]) -> Iterator[str]:
    """Yield the sentences of a paragraph, and its lines."""
    sentences = [sentence for sentence in SENTENCE.split(" ".join(paragraph)) if len(sentence) > WORDY]
    yield from sentences
    yield from (line for line in paragraph if line not in sentences)


def code(language: str, lines: Sequence[str], location: str, scope: str) -> Iterator[str]:
    """Yield what may occur once in a code block, or once in all code blocks of a document."""
    entries = [TREE.fullmatch(line.rstrip()) for line in lines]
    if language == "text" and sum(map(bool, entries)) > 2:
        folders: list[tuple[int, str]] = []
        for entry in filter(None, entries):
            folders = [folder for folder in folders if folder[0] < len(entry["indent"])]
            yield f"{location} tree: " + "".join(name for _, name in folders) + entry["name"]
            folders.append((len(entry["indent"]), entry["name"]))
        return
    for line in (raw.strip() for raw in lines):
        imports = line.startswith(("import ", "from "))
        if len(line) > STRUCTURAL and not imports and not PRINTED.match(line):
            yield f"{scope} code: {line}"
        elif len(line) > SHORT and not PRINTED.match(line):
            yield f"{location} code: {line}"


def repeated(text: str) -> list[str]:
    """Return the entries of a document that occur more than once."""
    return [entry for entry, times in Counter(entries(text)).items() if times > 1]


@pytest.mark.parametrize("path", PAGES, ids=parameter_id)
def test_pages_repeat_no_line_sentence_row_or_tree_entry(path: Path) -> None:
    assert not repeated(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "leftover",
    [
        "The router reads a text once.\nThe router reads a text once.\n",
        "- one pass a text\n- experts stay adapters\n- one pass a text\n",
        "Why: [explain](e.md). Data: [docs/data.md](docs/data.md). What\nWhich: [docs/data.md](docs/data.md).\n"
        "Data: [docs/data.md](docs/data.md). What comes\n",
        "其余不变。路由器只读一遍文本,再混合各位专家的输出。\n\n路由器只读一遍文本,再混合各位专家的输出。\n",
        "| model | F1 |\n|---|---|\n| TF-IDF | 69.1 |\n| mixture | 74.1 |\n| TF-IDF | 69.1 |\n",
        "| key | meaning |\n|---|---|\n| `lora.r` | rank |\n| `lora.r` | rank of an expert |\n",
        "```text\nmoe/\n  desk/   train, ask, serve\n  data/   files\n  desk/   train, ask, measure\n```\n",
        "```text\nruns/demo/\n  report/   index.html and card.md\n  report/   index.html\n  export/   others\n```\n",
        "```bash\nmoe merge --run runs/a\nmoe train-router\nmoe merge --run runs/a\n```\n",
        "# A\n\n## Use\n\nOne.\n\n## Use\n\nTwo.\n",
    ],
)
def test_repetition_check_finds_leftovers_of_merges(leftover: str) -> None:
    assert repeated(leftover)


def test_repetition_check_allows_releases_tables_and_similar_snippets() -> None:
    assert not repeated("## 2\n\n### Added\n\n- a\n\n## 1\n\n### Added\n\n- b\n")
    assert not repeated("| a | b |\n|---|---|\n| 1 | 2 |\n\nThen:\n\n| a | b |\n|---|---|\n| 3 | 4 |\n")
    assert not repeated("```python\nimport json\n```\n\nOr:\n\n```python\nimport json\n```\n")


# --- links and trees


def local_links(path: Path) -> list[str]:
    """Return the paths in this repository that a page links to."""
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text(encoding="utf-8")))
    return [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("#")]


@pytest.mark.parametrize("path", PAGES, ids=parameter_id)
def test_pages_link_only_to_existing_files(path: Path) -> None:
    assert not [target for target in local_links(path) if not (path.parent / target).exists()]


def listed_paths() -> list[str]:
    """Return the paths in the tree of CONTRIBUTING.md, and check that each has a description."""
    body = next(
        fence for fence in code_blocks(ROOT / "CONTRIBUTING.md", "text") if "cli.py" in fence and "router/" in fence
    )
    paths, folder = [], ""
    for line in body.splitlines():
        names, description = re.split(r"  +", line.strip(), maxsplit=1)
        assert description
        inner = line.startswith(" ")
        paths += [(folder if inner else "") + name for name in names.split(", ")]
        folder = folder if inner else names
    return paths


def test_contributing_tree_lists_exactly_the_packages_and_modules() -> None:
    packages = [path.parent for part in ("experts", "router", "moe") for path in (ROOT / part).glob("**/__init__.py")]
    existing = {f"{package.relative_to(ROOT).as_posix()}/" for package in packages}
    existing |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "moe").glob("[a-z]*.py")}
    tree = [name for name in listed_paths() if name.startswith(("moe/", "experts/", "router/"))]
    assert sorted(tree) == sorted(existing)


def test_contributing_tree_lists_only_existing_paths() -> None:
    paths = [(ROOT / name, name.endswith("/")) for name in listed_paths()]
    assert not [path for path, folder in paths if not (path.is_dir() if folder else path.is_file())]


MODULE = re.compile(r"`((?:moe|experts|router|benchmarks|tests)/[\w./-]*\w\.(?:py|md))`")


@pytest.mark.parametrize("path", PAGES, ids=parameter_id)
def test_pages_name_only_existing_files(path: Path) -> None:
    named = MODULE.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize(
    "name",
    [
        *(expert_folder.ADAPTER, expert_folder.ADAPTER_CONFIG, expert_folder.HEADS, expert_folder.CARD, MANIFEST),
        *(expert_folder.CONFIG, expert_folder.METRICS, mixture_folder.CARD, mixture_folder.ROUTER, layout.RESULT),
        *(f"{name}/" for name in layout.MIXTURES),
        *(trajectory.LOG, trajectory.PARQUET, report_page.PAGE_FILE, report_page.JSON_FILE),
    ],
)
def test_folders_page_names_every_written_file(name: str) -> None:
    assert name in (ROOT / "docs" / "folders.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_method_page_names_every_stage(stage: Any) -> None:
    assert f"`{stage.folder}/" in (ROOT / "docs" / "method.md").read_text(encoding="utf-8")


def test_changelog_has_a_section_for_the_current_version() -> None:
    declared = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert declared
    heading = "Unreleased" if ".dev" in declared[1] else declared[1]
    assert f"## [{heading}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# --- yaml and python


@pytest.mark.parametrize("path", PAGES, ids=parameter_id)
def test_yaml_blocks_are_valid_domains_runs_or_service_settings(path: Path, tmp_path: Path) -> None:
    """The runs on a page may use the domain that it defines."""
    (tmp_path / "domains").mkdir()
    for number, body in enumerate(code_blocks(path, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(body, encoding="utf-8")
        raw = read_yaml(file)
        if raw.keys() <= ServeSettings.model_fields.keys():
            assert ServeSettings.model_validate(raw)
        elif "domains" in raw:
            run = load_run(file)
            assert run.sample or run.language, "a classification run on a page must work without further files"
        else:
            assert parse_run({"domains": {"shown": raw}}, path.name)
            (tmp_path / "domains" / "crypto.yaml").write_text(body, encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=parameter_id)
def test_python_blocks_compile(path: Path) -> None:
    for body in code_blocks(path, "python"):
        compile(body, path.name, "exec")


def test_dao_in_five_lines_trains() -> None:
    (code,) = [body for body in code_blocks(ROOT / "docs" / "api.md", "python") if "DAO" in body]
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    trunk, heads = torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)

    def model(x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        h = trunk(x)  # (B, D)
        return h, {"classes": heads(h)[:, 0].square().mean(), "polarity": heads(h)[:, 1].abs().mean()}

    space: dict[str, Any] = {"loader": [torch.randn(5, 4), torch.randn(3, 4)], "model": model}
    exec(code, space)
    assert trunk.weight.grad is not None
    assert trunk.weight.grad.abs().sum() > 0
    assert space["dao"].log_values()["w_polarity"] > 0


# --- settings


def setting_rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the settings of a model as table rows: key, default, meaning."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        inner = next((kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, BaseModel)), None)
        if inner is StagesSettings:
            yield from _stage_rows()
            continue
        if inner is None or field.description:
            yield _row(f"{prefix}{name}", _shown(field.get_default(call_default_factory=True)), field)
        if inner is not None and name != "tasks":
            yield from setting_rows(inner, f"{prefix}{name}.{'NAME.' if get_origin(field.annotation) is dict else ''}")


def _stage_rows() -> Iterator[str]:
    stages = StagesSettings()
    for name, field in StageSettings.model_fields.items():
        usual = getattr(stages.expert, name)
        others = {stage: getattr(getattr(stages, stage), name) for stage in STAGES}
        others_shown = ", ".join(f"{stage} {_shown(value)}" for stage, value in others.items() if value != usual)
        yield _row(f"stages.STAGE.{name}", _shown(usual) + (f"; {others_shown}" if others_shown else ""), field)
    for name in StagesSettings.model_fields.keys() - STAGES.keys():
        yield _row(f"stages.{name}", _shown(getattr(stages, name)), StagesSettings.model_fields[name])


def _row(key: str, default: str, field: Any) -> str:
    kinds = [
        annotation
        for annotation in (field.annotation, *get_args(field.annotation))
        if get_origin(annotation) is Literal
    ]
    choices = " · ".join(f"`{choice}`" for kind in kinds for choice in get_args(kind))
    remarks = "; ".join(filter(None, [choices, _range(field)]))
    meaning = str(field.description).replace("|", "\\|") if field.description else ""
    assert meaning, f"{key} has no description"
    return f"| `{key}` | {default} | {meaning}{f' ({remarks})' if remarks else ''} |"


def _range(field: Any) -> str:
    """Return the bounds of a number: `1 to 10`, `above 0 to 10`, `0 to below 1`."""
    limits = {
        key: getattr(item, key) for item in field.metadata for key in ("ge", "gt", "le", "lt") if hasattr(item, key)
    }
    if not limits:
        return ""
    low = f"above {_number(limits['gt'])}" if "gt" in limits else _number(limits["ge"])
    return f"{low} to " + (f"below {_number(limits['lt'])}" if "lt" in limits else _number(limits["le"]))


def _number(value: float) -> str:
    return f"{value:,}" if value < 10**10 else f"{value:g}"


def _shown(value: Any) -> str:
    if value is PydanticUndefined:
        return "–"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def test_settings_page_lists_every_setting_with_default_and_meaning() -> None:
    page = SETTINGS.read_text(encoding="utf-8").splitlines()
    missing = [row for row in setting_rows(RunSettings, "") if row not in page]
    assert not missing, "add to docs/settings.md:\n" + "\n".join(missing)


def test_settings_page_lists_no_unknown_setting() -> None:
    shown = {line for line in SETTINGS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")}
    assert not shown - set(setting_rows(RunSettings, ""))


def test_serving_page_lists_exactly_the_settings_of_the_service() -> None:
    shown = {line for line in SERVING.read_text(encoding="utf-8").splitlines() if line.startswith("| `")}
    rows = set(setting_rows(ServeSettings, ""))
    assert rows <= shown, "add to docs/serving.md:\n" + "\n".join(sorted(rows - shown))
    keys = "|".join(ServeSettings.model_fields)
    assert {line for line in shown if re.match(rf"\| `({keys})`", line)} <= rows


def test_signals_page_lists_exactly_the_settings_of_signals() -> None:
    page = (ROOT / "docs" / "quant.md").read_text(encoding="utf-8").splitlines()
    assert {line for line in page if line.startswith("| `")} == set(setting_rows(SignalSettings, ""))


def _setting_names(path: Path) -> Iterator[str]:
    keys = "|".join(sorted({*RunSettings.model_fields} - {"seed", "template"}))
    yield from re.findall(rf"`((?:{keys})\.[a-z_.]+)(?::[^`]*)?`", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES, ids=parameter_id)
def test_pages_name_only_existing_settings(path: Path) -> None:
    for key in _setting_names(path):
        assert Path(key).suffix in FILES or _settable(key), key


def _settable(key: str) -> bool:
    """Whether `--set KEY=…` names a setting; an impossible value is a different fault from an unknown key."""
    raw: dict[str, Any] = {"domains": {"news": {"labels": ["a", "b"]}}}
    apply_override(raw, f"{key}=null")
    try:
        RunSettings.model_validate(raw)
    except ValueError as fault:
        return "extra_forbidden" not in str(fault)
    return True


def test_bill_of_materials_lists_the_pinned_packages_and_all_dependencies() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {tuple(line.split(" ;")[0].split("==")) for line in lines if not line.startswith("#")}
    bill = json.loads((ROOT / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert {(component["name"], component["version"]) for component in bill["components"]} == pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {
        re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-") for requirement in project["dependencies"]
    }
    assert required <= {name for name, _ in pinned}


def test_security_page_states_the_number_of_generated_test_cases() -> None:
    counts = re.findall(r"max_examples=(\d+)", (ROOT / "tests" / "test_hostile.py").read_text(encoding="utf-8"))
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert f"({sum(map(int, counts)):,} cases" in page
    assert all(f"{count} " in page for count in counts)
