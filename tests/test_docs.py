"""Claims about the documents: what they name is there, what is there they name, and what they show can be typed."""

import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
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
from moe.config.run import RunSettings, load_run, apply_override, parse_run
from moe.config.stages import STAGES, StageSettings, StagesSettings
from moe.config.yaml import read_yaml
from moe.report import html as report_page
from moe.runs import best as result
from moe.runs import training_log as trajectory
from moe.serve.settings import ServeSettings

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
PAGES = [
    *READMES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
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
    found: list[list[str]] = []
    for line in lines:
        parts: list[list[str]] = [[]]
        for word in shlex.split(line, comments=True):
            if word in ("|", "&&", ">"):
                parts.append([])
            else:
                parts[-1].append(word)
        found += [part for part in parts if part]
    return found


def by_moe(path: Path) -> list[list[str]]:
    """The commands of ours that a page shows."""
    return [words[1:] for words in typed(path) if words[0] == "moe"]


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words call, and the words that are left for it."""
    command, left = GROUP, list(words)
    flags = {one for parameter in GROUP.params for one in parameter.opts}
    while len(left) > 1 and left[0] in flags:  # such as --quiet, before the command
        left = left[1:]
    while hasattr(command, "commands") and left and left[0] in command.commands:
        command, left = command.commands[left[0]], left[1:]
    return command, left


def shown_as(one: Any) -> str:
    """What a parameter is called in pytest's output."""
    return one.relative_to(ROOT).as_posix() if isinstance(one, Path) else " ".join(one)


SHOWN = [(path, words) for path in PAGES for words in by_moe(path)]


# --- commands


@pytest.mark.parametrize(("path", "words"), SHOWN, ids=shown_as)
def test_every_command_shown_can_be_typed(path: Path, words: list[str]) -> None:
    command, left = resolve(words)
    assert command is not GROUP or left[0].startswith("--"), f"no such command: {left[0]}"
    known = {one for parameter in command.params for one in parameter.opts} | {"--help"}
    asked = {word.split("=")[0] for word in left if re.match(r"--?[a-z]", word)}
    assert asked <= known


@pytest.mark.parametrize(("path", "words"), SHOWN, ids=shown_as)
def test_every_set_shown_is_a_setting(path: Path, words: list[str]) -> None:
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    config = next((ROOT / words[i + 1] for i, word in enumerate(words) if word == "--config"), None)
    if sets:
        assert load_run(config if config and config.is_file() else ROOT / "configs" / "demo.yaml", sets)


@pytest.mark.parametrize("path", PAGES, ids=shown_as)
def test_every_make_target_shown_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    asked = [words[words.index("make") + 1 :] for words in typed(path) if "make" in words]
    assert {word for words in asked for word in words} <= targets


@pytest.mark.parametrize("path", READMES, ids=shown_as)
def test_the_first_command_comes_by_line_35(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()[:35]
    assert "make demo" in lines
    assert "make test" in lines


def test_both_readmes_show_the_same() -> None:
    english, chinese = READMES
    assert typed(english) == typed(chinese)
    marks = [re.findall(r"<!-- output: .*? -->", path.read_text(encoding="utf-8")) for path in READMES]
    links = [sorted({one for one in linked(path) if "README" not in one}) for path in READMES]
    assert marks[0] == marks[1]
    assert links[0] == links[1]
    assert len(headings(english)) == len(headings(chinese))


def headings(path: Path) -> list[str]:
    """A page's headings."""
    return re.findall(r"^#+ .*", FENCE.sub("", path.read_text(encoding="utf-8")), re.M)


# --- links and trees


def linked(path: Path) -> list[str]:
    """What a page links to in this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text(encoding="utf-8")))
    return [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("#")]


@pytest.mark.parametrize("path", PAGES, ids=shown_as)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert not [target for target in linked(path) if not (path.parent / target).exists()]


def tree_of(path: Path) -> list[str]:
    """The paths in a README's captioned tree; each needs its caption."""
    body = next(one for one in fences(path, "text") if "cli.py" in one)
    found, folder = [], ""
    for line in body.splitlines():
        name, caption = line.split(maxsplit=1)
        assert caption
        inner = folder + name if line.startswith(" ") else name
        folder = name if not line.startswith(" ") and name.endswith("/") else folder
        found.append(inner)
    return found


@pytest.mark.parametrize("path", READMES, ids=shown_as)
def test_everything_in_the_tree_is_on_the_disk(path: Path) -> None:
    places = [(ROOT / name, name.endswith("/")) for name in tree_of(path)]
    assert not [place for place, folder in places if not (place.is_dir() if folder else place.is_file())]


@pytest.mark.parametrize("path", READMES, ids=shown_as)
def test_everything_on_the_disk_is_in_the_tree(path: Path) -> None:
    tree = set(tree_of(path))
    modules = [one for part in ("experts", "router", "moe") for one in (ROOT / part).glob("*.py")]
    packages = [one.parent for part in ("experts", "router", "moe") for one in (ROOT / part).glob("*/__init__.py")]
    here = {one.relative_to(ROOT).as_posix() for one in modules if one.name != "__init__.py"}
    here |= {f"{one.relative_to(ROOT).as_posix()}/" for one in packages}
    assert not here - tree


def test_the_tree_is_the_same_in_both_readmes() -> None:
    assert tree_of(READMES[0]) == tree_of(READMES[1])


@pytest.mark.parametrize(
    "name",
    [
        *(expert_folder.ADAPTER, expert_folder.ADAPTER_CONFIG, expert_folder.HEADS, expert_folder.CARD, MANIFEST),
        *(expert_folder.CONFIG, expert_folder.METRICS, mixture_folder.CARD, mixture_folder.ROUTER, result.RESULT),
        *(f"{one}/" for one in result.CANDIDATES),
        *(trajectory.LOG, trajectory.PARQUET, report_page.PAGE, report_page.JSON),
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
    assert f"## [{declared[1]}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("path", READMES, ids=shown_as)
def test_dao_in_five_lines_trains(path: Path) -> None:
    (code,) = [body for body in fences(path, "python") if "DAO" in body]
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
        inner = next((one for one in kinds if inspect.isclass(one) and issubclass(one, BaseModel)), None)
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
        told = ", ".join(f"{stage} {_shown(value)}" for stage, value in others.items() if value != usual)
        yield _row(f"stages.STAGE.{name}", _shown(usual) + (f"; {told}" if told else ""), field)
    for name in StagesSettings.model_fields.keys() - STAGES.keys():
        yield _row(f"stages.{name}", _shown(getattr(stages, name)), StagesSettings.model_fields[name])


def _row(key: str, default: str, field: Any) -> str:
    kinds = [one for one in (field.annotation, *get_args(field.annotation)) if get_origin(one) is Literal]
    choices = " · ".join(f"`{one}`" for kind in kinds for one in get_args(kind))
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


def test_the_page_tells_of_no_setting_that_is_not_there() -> None:
    told = {line for line in SETTINGS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")}
    assert not told - set(rows_of(RunSettings, ""))


def test_every_setting_of_the_service_is_in_its_page_and_no_other() -> None:
    told = {line for line in SERVING.read_text(encoding="utf-8").splitlines() if line.startswith("| `")}
    rows = set(rows_of(ServeSettings, ""))
    assert rows <= told, "put into docs/serving.md:\n" + "\n".join(sorted(rows - told))
    keys = "|".join(ServeSettings.model_fields)
    assert {line for line in told if re.match(rf"\| `({keys})`", line)} <= rows


def _names_in(path: Path) -> Iterator[str]:
    keys = "|".join(sorted({*RunSettings.model_fields} - {"seed", "template"}))
    yield from re.findall(rf"`((?:{keys})\.[a-z_.]+)(?::[^`]*)?`", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES, ids=shown_as)
def test_every_setting_named_is_one(path: Path) -> None:
    for key in _names_in(path):
        assert Path(key).suffix in FILES or _settable(key), key


def _settable(key: str) -> bool:
    """Whether `--set KEY=…` finds a place: an impossible value is told of, an unknown key too, but otherwise."""
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
    assert {(one["name"], one["version"]) for one in bill["components"]} == pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[<>=\[ ]", one)[0].lower().replace("_", "-") for one in project["dependencies"]}
    assert wanted <= {name for name, _ in pinned}


def test_the_counts_of_drawn_cases_in_the_security_page_are_those_of_the_tests() -> None:
    drawn = re.findall(r"max_examples=(\d+)", (ROOT / "tests" / "test_hostile.py").read_text(encoding="utf-8"))
    told = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert f"({sum(map(int, drawn)):,} cases" in told
    assert all(f"{count} " in told for count in drawn)
