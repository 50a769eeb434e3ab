"""Claims about the project's own files: workflows, hooks, forms, citation, package metadata and the Containerfile."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from packaging.specifiers import SpecifierSet
from serving import serve_process, write_calibrated_mixture

import moe.serve
from moe.serve.settings import ServeSettings

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
CONFIG = GITHUB / "ISSUE_TEMPLATE" / "config.yml"
FORMS = sorted(set((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) - {CONFIG})
REQUEST = GITHUB / "PULL_REQUEST_TEMPLATE.md"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = PROJECT["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def read(path: Path) -> Any:
    """What a YAML file holds."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """What a file is called in pytest's output."""
    return path.relative_to(ROOT).as_posix()


# --- workflows


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    """The jobs of a workflow."""
    return read(path)["jobs"]


def steps(path: Path) -> list[dict[str, Any]]:
    """The steps of all jobs of a workflow."""
    return [step for job in jobs(path).values() for step in job["steps"]]


def made(script: str) -> list[str]:
    """The make targets that a script calls."""
    called: list[str] = []
    for line in script.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "make":
            called += words[1:]
    return called


def pythons(path: Path) -> set[str]:
    """The versions of Python that the matrices of a workflow name."""
    matrices = [job["strategy"]["matrix"] for job in jobs(path).values() if "strategy" in job]
    included = [entry["python"] for matrix in matrices for entry in matrix.get("include", [])]
    return {version for matrix in matrices for version in matrix["python"]} | set(included)


def classified() -> set[str]:
    """The versions of Python that the package's classifiers name."""
    matches = (
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier) for classifier in PACKAGE["classifiers"]
    )
    return {match[1] for match in matches if match}


def test_workflows_are_ci_docs_publish_and_slow() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "publish", "slow"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflows_call_only_existing_make_targets(path: Path) -> None:
    called = {target for step in steps(path) for target in made(step.get("run", ""))}
    assert called
    assert called <= TARGETS


def test_workflows_call_the_check_and_both_kinds_of_tests() -> None:
    called = {target for path in WORKFLOWS for step in steps(path) for target in made(step.get("run", ""))}
    assert called >= {"check", "lint-project", "test", "test-slow", "docs", "dist"}


def test_workflows_test_every_python_that_the_classifiers_name() -> None:
    assert pythons(GITHUB / "workflows" / "ci.yml") == classified()


def test_classifiers_name_the_pythons_that_the_package_requires() -> None:
    minors = sorted(int(version.split(".")[1]) for version in classified())
    assert minors == list(range(minors[0], minors[-1] + 1))
    required = SpecifierSet(PACKAGE["requires-python"])
    assert all(f"3.{minor}" in required for minor in minors)
    assert f"3.{minors[0] - 1}" not in required


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflows_pin_every_action_to_a_release(path: Path) -> None:
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert not [
        action for action in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+(\.\d+){0,2}|release/v\d+)", action)
    ]


def test_workflows_use_one_version_of_each_action() -> None:
    used = {step["uses"] for path in WORKFLOWS for step in steps(path) if "uses" in step}
    names = [action.split("@")[0] for action in used]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflows_grant_writing_only_to_jobs_that_deploy_or_publish(path: Path) -> None:
    assert read(path)["permissions"] == {"contents": "read"}
    writing = {name for name, job in jobs(path).items() if "write" in job.get("permissions", {}).values()}
    assert writing <= {"deploy", "publish"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflows_limit_the_time_of_every_job_and_the_runs_of_a_branch(path: Path) -> None:
    assert read(path)["concurrency"]["group"]
    assert not [name for name, job in jobs(path).items() if "timeout-minutes" not in job]


def test_workflows_publish_only_a_pushed_tag() -> None:
    workflow = read(GITHUB / "workflows" / "publish.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true
    assert workflow["jobs"]["publish"]["needs"] == "build"
    publishers = {path.stem for path in WORKFLOWS for step in steps(path) if "pypi-publish" in step.get("uses", "")}
    assert publishers == {"publish"}


def test_dependabot_watches_the_actions_and_the_base_image() -> None:
    kinds = {update["package-ecosystem"] for update in read(GITHUB / "dependabot.yml")["updates"]}
    assert kinds == {"github-actions", "docker"}


# --- hooks before a commit


def hooks() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every hook with the repository that it comes from."""
    for repository in read(ROOT / ".pre-commit-config.yaml")["repos"]:
        yield from ((repository, hook) for hook in repository["hooks"])


def test_hooks_run_the_ruff_that_is_pinned() -> None:
    pinned = re.search(r"^ruff==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert pinned
    assert {repository["rev"] for repository, hook in hooks() if hook["id"].startswith("ruff")} == {f"v{pinned[1]}"}


def test_hooks_of_the_project_call_only_existing_make_targets() -> None:
    called = [made(hook["entry"]) for repository, hook in hooks() if repository["repo"] == "local"]
    assert all(called)
    assert {target for targets in called for target in targets} <= TARGETS


def test_hooks_watch_files_that_exist() -> None:
    watched = [re.compile(hook["files"]) for _, hook in hooks() if "files" in hook]
    assert watched
    sources = [name_of(path) for path in [*ROOT.glob("*.py"), *ROOT.glob("*/**/*.py"), *ROOT.glob("docs/*.md")]]
    for pattern in watched:
        for part in pattern.pattern.removeprefix("^(").removesuffix(")$").split("|"):
            assert [source for source in sources if re.fullmatch(part, source)], part


def test_hooks_refuse_files_larger_than_those_in_the_repository() -> None:
    limit = next(hook["args"][0] for _, hook in hooks() if hook["id"] == "check-added-large-files")
    largest = max(path.stat().st_size for path in (ROOT / "docs").rglob("*.png"))
    assert largest / 1024 < int(limit.removeprefix("--maxkb=")) <= 500


# --- forms


@pytest.mark.parametrize("path", FORMS, ids=name_of)
def test_forms_name_themselves_and_each_of_their_fields(path: Path) -> None:
    form = read(path)
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    names = [field["id"] for field in fields]
    assert len(names) == len(set(names))


def test_forms_are_for_bugs_and_features_and_nothing_is_left_blank() -> None:
    assert [path.stem for path in FORMS] == ["bug", "feature"]
    assert read(CONFIG)["blank_issues_enabled"] is False


def test_the_bug_form_requires_what_reproduces_a_bug() -> None:
    fields = {field.get("id"): field for field in read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    needed = {"version", "command", "expected", "actual", "environment"}
    assert needed | {"config"} <= fields.keys()
    assert all(fields[name]["validations"]["required"] for name in needed)


@pytest.mark.parametrize("path", [*FORMS, REQUEST], ids=name_of)
def test_forms_quote_only_commands_that_exist(path: Path) -> None:
    quoted = [
        shlex.split(command) for command in re.findall(r"`((?:moe|make) [^`]+)`", path.read_text(encoding="utf-8"))
    ]
    for program, *words in quoted:
        if program == "make":
            assert set(words) <= TARGETS
        else:
            assert not unknown(words)


def test_the_forms_that_quote_commands_are_read() -> None:
    assert "`moe --version`" in (GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")
    assert "`make check`" in REQUEST.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [CONFIG, ROOT / "CITATION.cff"], ids=name_of)
def test_links_to_the_repository_are_below_its_address(path: Path) -> None:
    links = re.findall(r"https://github\.com/finmoe\S*", path.read_text(encoding="utf-8"))
    assert links
    assert all(link.startswith(PACKAGE["urls"]["Repository"]) for link in links)


# --- citation and metadata


def test_citation_has_the_version_license_and_address_of_the_package() -> None:
    cited = read(ROOT / "CITATION.cff")
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == PACKAGE["version"]
    assert cited["license"] == PACKAGE["license"]
    assert cited["repository-code"] == PACKAGE["urls"]["Repository"]
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in PACKAGE["authors"]]


def test_citation_refers_to_the_four_papers() -> None:
    papers = read(ROOT / "CITATION.cff")["references"]
    assert len({paper["title"] for paper in papers}) == 4
    assert all(paper["type"] and paper["authors"] for paper in papers)


def test_the_bill_of_materials_has_the_version_of_the_package() -> None:
    bill = json.loads((ROOT / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert bill["metadata"]["component"]["version"] == PACKAGE["version"]


def test_the_package_names_where_it_lives() -> None:
    urls = PACKAGE["urls"]
    assert urls.keys() == {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    below = [re.sub(r"^/(?:tree|blob)/main/", "", url.removeprefix(urls["Repository"])) for url in urls.values()]
    paths = [path for path in below if path and path != "/issues"]
    assert len(paths) == 2
    assert all((ROOT / path).exists() for path in paths)


def test_the_package_states_its_license_once() -> None:
    """An index refuses a package that has both a license expression and a license classifier (PEP 639)."""
    assert PACKAGE["license"] == "Apache-2.0"
    assert not [classifier for classifier in PACKAGE["classifiers"] if classifier.startswith("License ::")]


def test_the_package_names_the_systems_that_the_workflows_test() -> None:
    matrix = jobs(GITHUB / "workflows" / "ci.yml")["test"]["strategy"]["matrix"]
    tested = {system.split("-")[0] for system in [*matrix["os"], *(system["os"] for system in matrix["include"])]}
    named = {
        classifier.split(" :: ")[-1]
        for classifier in PACKAGE["classifiers"]
        if classifier.startswith("Operating System ::")
    }
    assert {{"ubuntu": "Linux", "macos": "MacOS"}[system] for system in tested} == named


# --- the container


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile with their arguments; remarks left out, continued lines joined."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = [line.split(maxsplit=1) for line in body.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name.upper(), argument.strip()) for name, argument in lines]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage; the last one is what runs."""
    grouped: list[list[tuple[str, str]]] = []
    for name, argument in instructions():
        if name == "FROM":
            grouped.append([])
        grouped[-1].append((name, argument))
    return grouped


def last(name: str) -> str:
    """The argument of the last such instruction in what runs."""
    return [argument for instruction, argument in stages()[-1] if instruction == name][-1]


def listed(argument: str) -> list[str]:
    """The words of an argument in exec form, whatever options stand before it."""
    match = re.search(r"\[.*\]$", argument)
    assert match, f"not in exec form, so signals do not reach the program: {argument}"
    return json.loads(match[0])


def commands() -> list[list[str]]:
    """The words of every command that building or running calls."""
    calls = [[*listed(last("ENTRYPOINT")), *listed(last("CMD"))], listed(last("HEALTHCHECK"))]
    for name, argument in instructions():
        if name == "RUN":
            calls += [shlex.split(part) for part in re.split(r"&&|\|\||;", argument)]
    return calls


def front_desk() -> Any:
    """The program that the package installs as `moe`."""
    module, _ = PACKAGE["scripts"]["moe"].split(":")
    return typer.main.get_command(import_module(module).app)


def unknown(words: list[str]) -> list[str]:
    """The commands and options among these words after `moe` that do not exist."""
    command, left = front_desk(), list(words)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    while hasattr(command, "commands") and left and not left[0].startswith("-"):
        if left[0] not in command.commands:
            return [left[0]]
        command, left = command.commands[left[0]], left[1:]
        known |= {option for parameter in command.params for option in parameter.opts}
    return [word for word in left if word.startswith("-") and word.split("=")[0] not in known]


def copied() -> list[str]:
    """The paths of the source tree that the Containerfile copies."""
    words = [argument.split() for name, argument in instructions() if name == "COPY"]
    return [source for group in words if not group[0].startswith("--from") for source in group[:-1]]


def test_container_calls_only_existing_commands_and_options() -> None:
    ours = [words[1:] for words in commands() if words[0] == "moe"]
    assert len(ours) >= 2
    assert not [option for words in ours for option in unknown(words)]


def test_container_remarks_show_only_existing_options() -> None:
    shown = re.findall(r"finmoe (--[a-z-]+)`", (ROOT / "Containerfile").read_text(encoding="utf-8"))
    assert shown
    assert not unknown(["serve", *shown])


def test_container_serves_the_mounted_model() -> None:
    assert listed(last("ENTRYPOINT")) == ["moe", "serve"]
    assert listed(last("CMD"))[0] == last("VOLUME") == "/model"


def test_container_does_not_run_as_root() -> None:
    user = last("USER").split(":")[0]
    assert user.isdigit(), "a number, so that a cluster can verify that it is not root"
    assert int(user) > 0
    made_for = [argument for name, argument in stages()[-1] if name == "RUN" and "useradd" in argument]
    assert any(f"--uid {user} " in argument for argument in made_for)


def test_container_starts_from_one_named_release_of_a_supported_python() -> None:
    bases = {argument.split()[0] for name, argument in instructions() if name == "FROM"}
    assert len(bases) == 1
    match = re.fullmatch(r"python:(3\.\d+)(?:\.\d+)?-slim", bases.pop())
    assert match
    assert match[1] in classified()


def test_container_copies_only_what_exists() -> None:
    assert copied()
    assert not [path for path in copied() if not (ROOT / path).exists()]


def test_container_copies_all_that_the_wheel_is_built_from() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", PACKAGE["readme"], *PACKAGE["license-files"], *wheel["packages"]}
    assert needed | set(wheel["force-include"]) <= set(copied())


def test_container_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied())


def test_container_installs_the_packages_that_serve_at_their_pinned_versions() -> None:
    installs = [words for words in commands() if words[0].endswith("pip") and words[1] == "install"]
    assert len(installs) == 1
    assert "constraints.txt" in installs[0]
    extras = re.fullmatch(r".*\[([\w,]+)\]", installs[0][-1])
    assert extras
    assert set(extras[1].split(",")) <= PACKAGE["optional-dependencies"].keys()
    assert "serve" in extras[1].split(",")


def test_container_asks_the_service_whether_it_answers() -> None:
    code = " ".join(listed(last("HEALTHCHECK")))
    request = re.search(r"http://127\.0\.0\.1:(\d+)/(\w+)'", code)
    assert request
    assert request[2] == "healthz"
    assert request[1] == last("EXPOSE")
    sources = [path.read_text(encoding="utf-8") for path in Path(moe.serve.__file__).parent.glob("*.py")]
    assert any(f'.get("/{request[2]}"' in source for source in sources)
    compile(listed(last("HEALTHCHECK"))[-1], "HEALTHCHECK", "exec")


def test_container_listens_on_the_address_of_its_command() -> None:
    words = listed(last("CMD"))
    given = {option: words[words.index(option) + 1] for option in ("--host", "--port")}
    settings = ServeSettings.model_validate({option.removeprefix("--"): value for option, value in given.items()})
    assert settings.host == "0.0.0.0"
    assert str(settings.port) == last("EXPOSE")


@pytest.mark.slow
def test_container_finds_its_service_healthy_until_it_ends(tmp_path: Path) -> None:
    settings = tmp_path / "serve.yaml"
    keys = {"probe": hashlib.sha256(b"a key").hexdigest()}
    settings.write_text(yaml.safe_dump({"keys": keys}), encoding="utf-8")
    mounted = {"/etc/finmoe/serve.yaml": str(settings), last("EXPOSE"): "0"}
    words = [mounted.get(word, word) for word in listed(last("CMD"))[1:]]
    with serve_process(write_calibrated_mixture(tmp_path), *words) as service:
        port = service.url.rsplit(":", 1)[1].strip("/")
        check = [sys.executable, "-c", listed(last("HEALTHCHECK"))[-1].replace(last("EXPOSE"), port)]
        assert subprocess.run(check).returncode == 0
        assert service.stop() == 0
        assert subprocess.run(check, stderr=subprocess.DEVNULL).returncode != 0
