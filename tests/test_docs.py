"""Claims about the documents: what they name is there, what is there they name, and what they show can be typed."""

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
from moe.checkpoints import mixture as mixture_folder
from moe.commands import main as cli
from moe.config.overrides import apply_override
from moe.config.run import RunSettings, load_run, parse_run
from moe.config.stages import STAGES, StageSettings, StagesSettings
from moe.config.yaml import read_yaml
from moe.report import html as report_page
from moe.runs import best as result
from moe.runs import training_log as trajectory
from moe.serve.settings import ServeSettings

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
FOLDERS = ("docs", "benchmarks", "configs", ".github")
PAGES = sorted({*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))})
SETTINGS, SERVING = ROOT / "docs" / "settings.md", ROOT / "docs" / "serving.md"
FILES = {".py", ".md", ".yaml", ".csv", ".json", ".safetensors"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
GROUP: Any = typer.main.get_command(cli.app)


def fences(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [body for kind, body in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def typed(path: Path) -> list[list[str]]:
    """Every command that a page shows, in words, one for each part of a pipe; remarks and redirections left out."""
    lines = [line for body in fences(path, "bash") for line in body.splitlines()]
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


def by_moe(path: Path) -> list[list[str]]:
    """The commands of ours that a page shows."""
    return [words[1:] for words in typed(path) if words[0] == "moe"]


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words call, and the words that are left for it."""
    command, left = GROUP, list(words)
    flags = {option for parameter in GROUP.params for option in parameter.opts}
    while len(left) > 1 and left[0] in flags:  # such as --quiet, before the command
        left = left[1:]
    while hasattr(command, "commands") and left and left[0] in command.commands:
        command, left = command.commands[left[0]], left[1:]
    return command, left


def shown_as(parameter: Any) -> str:
    """What a parameter is called in pytest's output."""
    return parameter.relative_to(ROOT).as_posix() if isinstance(parameter, Path) else " ".join(parameter)


SHOWN = [(path, words) for path in PAGES for words in by_moe(path)]


# --- commands


@pytest.mark.parametrize(("path", "words"), SHOWN, ids=shown_as)
def test_every_command_shown_can_be_typed(path: Path, words: list[str]) -> None:
    command, left = resolve(words)
    assert command is not GROUP or left[0].startswith("--"), f"no such command: {left[0]}"
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in left if re.match(r"--?[a-z]", word)}
    assert used <= known


@pytest.mark.parametrize(("path", "words"), SHOWN, ids=shown_as)
def test_every_set_shown_is_a_setting(path: Path, words: list[str]) -> None:
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    config = next((ROOT / words[i + 1] for i, word in enumerate(words) if word == "--config"), None)
    if sets:
        assert load_run(config if config and config.is_file() else ROOT / "configs" / "demo.yaml", sets)


@pytest.mark.parametrize("path", PAGES, ids=shown_as)
def test_every_make_target_shown_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    called = [words[words.index("make") + 1 :] for words in typed(path) if "make" in words]
    assert {word for words in called for word in words} <= targets


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_readme_shows_the_commands_of_people_and_ci_on_its_first_screens(command: str) -> None:
    assert command in READMES[0].read_text(encoding="utf-8").splitlines()[:60]


@pytest.mark.parametrize(("name", "most"), [("README.md", 200), ("README.zh.md", 100), ("docs/benchmarks.md", 250)])
def test_pages_that_people_read_first_stay_short(name: str, most: int) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most


@pytest.mark.parametrize("path", READMES, ids=shown_as)
def test_readme_figures_are_those_of_the_benchmarks(path: Path) -> None:
    measured = [cells(line) for line in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").splitlines()]
    figures = [{cell for cell in cells(row)[1:] if cell} for row in results_of(path)]
    assert len(figures) > 3
    assert not [row for row in figures if not any(row <= set(others) for others in measured)]


BENCHMARK = re.compile(r"`python (benchmarks/\w+\.py)([^`]*)`")


def test_benchmarks_give_the_command_of_every_table() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "not kept" not in page
    sections = re.split(r"^##+ ", page, flags=re.M)
    tables = [section.split("\n|")[0] for section in sections if "\n|---" in section]
    assert len(tables) > 5
    assert not [above.splitlines()[0] for above in tables if not BENCHMARK.search(above)]


def test_benchmarks_give_commands_that_can_be_typed() -> None:
    commands = BENCHMARK.findall((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"))
    assert not [script for script, _ in commands if not (ROOT / script).is_file()]
    for script, words in commands:
        source = (ROOT / script).read_text(encoding="utf-8")
        shared = [ROOT / "benchmarks" / f"{name}.py" for name in re.findall(r"^from (\w+) import", source, re.M)]
        source += "".join(path.read_text(encoding="utf-8") for path in shared if path.is_file())
        assert not [option for option in re.findall(r"--[a-z-]+", words) if f'"{option}"' not in source], script


def cells(row: str) -> list[str]:
    """The cells of a table's row, without emphasis."""
    return [cell.strip(" *") for cell in row.strip("|").split("|")]


def results_of(path: Path) -> list[str]:
    """The rows of a README's table of results."""
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [row for row in rows if re.search(r"\| [−+]?\d*\.\d", row)]


# --- repetition

MARK = re.compile(r"<!-- (?:help: (?P<scope>.*?)|end|output: .*?) -->")
RULE = re.compile(r"[\s|:-]+")  # the line under a table's header
PRINTED = re.compile(r"[┏┃┡│├└┌]|.*█")  # a row of a terminal's table or chart, shown as it was printed
TREE = re.compile(r"(?P<indent> *)(?P<name>[^\s,]+/|[\w-]+\.\w+)(?:  +\S.*)?")
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。!?])")
LIST = re.compile(r"[-*+] |\d+\. ")
STRUCTURAL, SHORT, WORDY = 40, 12, 20
"""Characters: longer lines of code occur once in a document, or once in their block; longer sentences once."""


def entries(text: str) -> Iterator[str]:
    """What may occur once in a document: headings, lines, sentences, table rows and keys, tree entries, code."""
    lines, path = text.splitlines(), [""] * 7
    scope, paragraph, block = "", list[str](), 0  # scope: the command whose help is written here, by `make help`
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
    """The sentences of a paragraph, and its lines."""
    sentences = [sentence for sentence in SENTENCE.split(" ".join(paragraph)) if len(sentence) > WORDY]
    yield from sentences
    yield from (line for line in paragraph if line not in sentences)


def code(language: str, lines: Sequence[str], location: str, scope: str) -> Iterator[str]:
    """What may occur once in a fenced block, or once in all blocks of a document."""
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
    """The entries of a document that occur more than once."""
    return [entry for entry, times in Counter(entries(text)).items() if times > 1]


@pytest.mark.parametrize("path", PAGES, ids=shown_as)
def test_documents_repeat_no_line_sentence_row_or_tree_entry(path: Path) -> None:
    assert not repeated(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "debris",
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
        "```bash\nmoe merge --out runs/a\nmoe train-router\nmoe merge --out runs/a\n```\n",
        "# A\n\n## Use\n\nOne.\n\n## Use\n\nTwo.\n",
    ],
)
def test_the_check_for_repetition_finds_what_merges_leave_behind(debris: str) -> None:
    assert repeated(debris)


def test_the_check_for_repetition_allows_releases_tables_and_snippets_of_like_form() -> None:
    assert not repeated("## 2\n\n### Added\n\n- a\n\n## 1\n\n### Added\n\n- b\n")
    assert not repeated("| a | b |\n|---|---|\n| 1 | 2 |\n\nThen:\n\n| a | b |\n|---|---|\n| 3 | 4 |\n")
    assert not repeated("```python\nimport json\n```\n\nOr:\n\n```python\nimport json\n```\n")


# --- links and trees


def linked(path: Path) -> list[str]:
    """What a page links to in this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text(encoding="utf-8")))
    return [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("#")]


@pytest.mark.parametrize("path", PAGES, ids=shown_as)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert not [target for target in linked(path) if not (path.parent / target).exists()]


def rooms() -> list[str]:
    """The paths in the tree of CONTRIBUTING.md, each of which needs its caption."""
    body = next(fence for fence in fences(ROOT / "CONTRIBUTING.md", "text") if "cli.py" in fence and "router/" in fence)
    paths, folder = [], ""
    for line in body.splitlines():
        names, caption = re.split(r"  +", line.strip(), maxsplit=1)
        assert caption
        inner = line.startswith(" ")
        paths += [(folder if inner else "") + name for name in names.split(", ")]
        folder = folder if inner else names
    return paths


def test_contributing_tree_names_every_room_and_no_other() -> None:
    packages = [path.parent for part in ("experts", "router", "moe") for path in (ROOT / part).glob("**/__init__.py")]
    here = {f"{package.relative_to(ROOT).as_posix()}/" for package in packages}
    here |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "moe").glob("[a-z]*.py")}
    tree = [name for name in rooms() if name.startswith(("moe/", "experts/", "router/"))]
    assert sorted(tree) == sorted(here)


def test_contributing_tree_is_on_the_disk() -> None:
    places = [(ROOT / name, name.endswith("/")) for name in rooms()]
    assert not [path for path, folder in places if not (path.is_dir() if folder else path.is_file())]


MODULE = re.compile(r"`((?:moe|experts|router|benchmarks|tests)/[\w./-]*\w\.(?:py|md))`")


@pytest.mark.parametrize("path", PAGES, ids=shown_as)
def test_every_file_named_is_on_the_disk(path: Path) -> None:
    named = MODULE.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize(
    "name",
    [
        *(expert_folder.ADAPTER, expert_folder.ADAPTER_CONFIG, expert_folder.HEADS, expert_folder.CARD, MANIFEST),
        *(expert_folder.CONFIG, expert_folder.METRICS, mixture_folder.CARD, mixture_folder.ROUTER, result.RESULT),
        *(f"{name}/" for name in result.CANDIDATES),
        *(trajectory.LOG, trajectory.PARQUET, report_page.PAGE_FILE, report_page.JSON_FILE),
    ],
)
def test_every_file_that_we_write_is_in_the_page_about_folders(name: str) -> None:
    assert name in (ROOT / "docs" / "folders.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_every_stage_is_in_the_page_about_the_method(stage: Any) -> None:
    assert f"`{stage.folder}/" in (ROOT / "docs" / "method.md").read_text(encoding="utf-8")


def test_the_changelog_knows_this_version() -> None:
    declared = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert declared
    heading = "Unreleased" if ".dev" in declared[1] else declared[1]
    assert f"## [{heading}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# --- yaml and python


@pytest.mark.parametrize("path", PAGES, ids=shown_as)
def test_every_yaml_shown_is_a_domain_or_a_run_or_a_services_settings(path: Path, tmp_path: Path) -> None:
    """A domain that a page shows can be used in the runs that it shows, whatever its name there."""
    (tmp_path / "domains").mkdir()
    for number, body in enumerate(fences(path, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(body, encoding="utf-8")
        raw = read_yaml(file)
        if raw.keys() <= ServeSettings.model_fields.keys():
            assert ServeSettings.model_validate(raw)
        elif "domains" in raw:
            run = load_run(file)
            assert run.sample or run.language, "a run of labels that a page shows can be run at once"
        else:
            assert parse_run({"domains": {"shown": raw}}, path.name)
            (tmp_path / "domains" / "crypto.yaml").write_text(body, encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=shown_as)
def test_every_python_shown_compiles(path: Path) -> None:
    for body in fences(path, "python"):
        compile(body, path.name, "exec")


def test_dao_in_five_lines_trains() -> None:
    (code,) = [body for body in fences(ROOT / "docs" / "api.md", "python") if "DAO" in body]
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


def rows_of(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """A settings model as rows of the page: key, default, meaning."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        inner = next((kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, BaseModel)), None)
        if inner is StagesSettings:
            yield from _stage_rows()
            continue
        if inner is None or field.description:
            yield _row(f"{prefix}{name}", _shown(field.get_default(call_default_factory=True)), field)
        if inner is not None and name != "tasks":
            yield from rows_of(inner, f"{prefix}{name}.{'NAME.' if get_origin(field.annotation) is dict else ''}")


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
    meaning = str(field.description).replace("|", "\\|") if field.description else ""
    assert meaning, f"{key} has no description"
    return f"| `{key}` | {default} | {meaning}{f' ({choices})' if choices else ''} |"


def _shown(value: Any) -> str:
    if value is PydanticUndefined:
        return "–"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def test_every_setting_is_in_the_page_with_its_default_and_meaning() -> None:
    page = SETTINGS.read_text(encoding="utf-8").splitlines()
    missing = [row for row in rows_of(RunSettings, "") if row not in page]
    assert not missing, "put into docs/settings.md:\n" + "\n".join(missing)


def test_settings_page_lists_no_unknown_setting() -> None:
    shown = {line for line in SETTINGS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")}
    assert not shown - set(rows_of(RunSettings, ""))


def test_every_setting_of_the_service_is_in_its_page_and_no_other() -> None:
    shown = {line for line in SERVING.read_text(encoding="utf-8").splitlines() if line.startswith("| `")}
    rows = set(rows_of(ServeSettings, ""))
    assert rows <= shown, "put into docs/serving.md:\n" + "\n".join(sorted(rows - shown))
    keys = "|".join(ServeSettings.model_fields)
    assert {line for line in shown if re.match(rf"\| `({keys})`", line)} <= rows


def _names_in(path: Path) -> Iterator[str]:
    keys = "|".join(sorted({*RunSettings.model_fields} - {"seed", "template"}))
    yield from re.findall(rf"`((?:{keys})\.[a-z_.]+)(?::[^`]*)?`", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES, ids=shown_as)
def test_every_setting_named_is_one(path: Path) -> None:
    for key in _names_in(path):
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


def test_the_bill_of_materials_names_what_is_pinned_and_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {tuple(line.split(" ;")[0].split("==")) for line in lines if not line.startswith("#")}
    bill = json.loads((ROOT / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert {(component["name"], component["version"]) for component in bill["components"]} == pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-") for requirement in project["dependencies"]
    }
    assert wanted <= {name for name, _ in pinned}


def test_the_counts_of_drawn_cases_in_the_security_page_are_those_of_the_tests() -> None:
    drawn = re.findall(r"max_examples=(\d+)", (ROOT / "tests" / "test_hostile.py").read_text(encoding="utf-8"))
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert f"({sum(map(int, drawn)):,} cases" in page
    assert all(f"{count} " in page for count in drawn)
