"""Tests of the project's files: workflows, hooks, forms, citation, package metadata and the Containerfile."""

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
    """Read a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def file_id(path: Path) -> str:
    """Return the name of a file in pytest's output."""
    return path.relative_to(ROOT).as_posix()


# --- workflows


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    """Return the jobs of a workflow."""
    return read(path)["jobs"]


def steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow."""
    return [step for job in jobs(path).values() for step in job["steps"]]


def make_targets(script: str) -> list[str]:
    """Return the make targets that a script calls."""
    called: list[str] = []
    for line in script.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "make":
            called += words[1:]
    return called


def matrix_pythons(path: Path) -> set[str]:
    """Return the versions of Python in the matrices of a workflow."""
    matrices = [job["strategy"]["matrix"] for job in jobs(path).values() if "strategy" in job]
    included = [entry["python"] for matrix in matrices for entry in matrix.get("include", [])]
    return {version for matrix in matrices for version in matrix["python"]} | set(included)


def classifier_pythons() -> set[str]:
    """Return the versions of Python in the package's classifiers."""
    matches = (
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier) for classifier in PACKAGE["classifiers"]
    )
    return {match[1] for match in matches if match}


def test_workflows_are_ci_docs_publish_and_slow() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "publish", "slow"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=file_id)
def test_workflows_call_only_existing_make_targets(path: Path) -> None:
    called = {target for step in steps(path) for target in make_targets(step.get("run", ""))}
    assert called
    assert called <= TARGETS


def test_workflows_run_checks_quick_and_slow_tests() -> None:
    called = {target for path in WORKFLOWS for step in steps(path) for target in make_targets(step.get("run", ""))}
    assert called >= {"check", "lint-project", "test", "test-slow", "docs", "dist"}


def test_workflows_test_every_python_of_the_classifiers() -> None:
    assert matrix_pythons(GITHUB / "workflows" / "ci.yml") == classifier_pythons()


def test_classifiers_agree_with_the_required_python() -> None:
    minors = sorted(int(version.split(".")[1]) for version in classifier_pythons())
    assert minors == list(range(minors[0], minors[-1] + 1))
    required = SpecifierSet(PACKAGE["requires-python"])
    assert all(f"3.{minor}" in required for minor in minors)
    assert f"3.{minors[0] - 1}" not in required


@pytest.mark.parametrize("path", WORKFLOWS, ids=file_id)
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


@pytest.mark.parametrize("path", WORKFLOWS, ids=file_id)
def test_workflows_grant_write_access_only_to_deploy_and_publish(path: Path) -> None:
    assert read(path)["permissions"] == {"contents": "read"}
    writing = {name for name, job in jobs(path).items() if "write" in job.get("permissions", {}).values()}
    assert writing <= {"deploy", "publish"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=file_id)
def test_workflows_limit_job_time_and_concurrent_runs(path: Path) -> None:
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


# --- pre-commit hooks


def hooks() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield every hook with its repository."""
    for repository in read(ROOT / ".pre-commit-config.yaml")["repos"]:
        yield from ((repository, hook) for hook in repository["hooks"])


def test_hooks_run_the_ruff_that_is_pinned() -> None:
    pinned = re.search(r"^ruff==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert pinned
    assert {repository["rev"] for repository, hook in hooks() if hook["id"].startswith("ruff")} == {f"v{pinned[1]}"}


def test_hooks_of_the_project_call_only_existing_make_targets() -> None:
    called = [make_targets(hook["entry"]) for repository, hook in hooks() if repository["repo"] == "local"]
    assert all(called)
    assert {target for targets in called for target in targets} <= TARGETS


def test_hooks_watch_files_that_exist() -> None:
    watched = [re.compile(hook["files"]) for _, hook in hooks() if "files" in hook]
    assert watched
    sources = [file_id(path) for path in [*ROOT.glob("*.py"), *ROOT.glob("*/**/*.py"), *ROOT.glob("docs/*.md")]]
    for pattern in watched:
        for part in pattern.pattern.removeprefix("^(").removesuffix(")$").split("|"):
            assert [source for source in sources if re.fullmatch(part, source)], part


def test_hooks_refuse_files_larger_than_those_in_the_repository() -> None:
    limit = next(hook["args"][0] for _, hook in hooks() if hook["id"] == "check-added-large-files")
    largest = max(path.stat().st_size for path in (ROOT / "docs").rglob("*.png"))
    assert largest / 1024 < int(limit.removeprefix("--maxkb=")) <= 500


# --- forms


@pytest.mark.parametrize("path", FORMS, ids=file_id)
def test_forms_have_a_name_and_labelled_fields(path: Path) -> None:
    form = read(path)
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    names = [field["id"] for field in fields]
    assert len(names) == len(set(names))


def test_forms_cover_bugs_and_features_and_blank_issues_are_disabled() -> None:
    assert [path.stem for path in FORMS] == ["bug", "feature"]
    assert read(CONFIG)["blank_issues_enabled"] is False


def test_bug_form_requires_the_fields_to_reproduce_a_bug() -> None:
    fields = {field.get("id"): field for field in read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    needed = {"version", "command", "expected", "actual", "environment"}
    assert needed | {"config"} <= fields.keys()
    assert all(fields[name]["validations"]["required"] for name in needed)


@pytest.mark.parametrize("path", [*FORMS, REQUEST], ids=file_id)
def test_forms_quote_only_commands_that_exist(path: Path) -> None:
    quoted = [
        shlex.split(command) for command in re.findall(r"`((?:moe|make) [^`]+)`", path.read_text(encoding="utf-8"))
    ]
    for program, *words in quoted:
        if program == "make":
            assert set(words) <= TARGETS
        else:
            assert not unknown_words(words)


def test_forms_contain_the_commands_that_are_checked() -> None:
    assert "`moe --version`" in (GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")
    assert "`make check`" in REQUEST.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [CONFIG, ROOT / "CITATION.cff"], ids=file_id)
def test_links_to_the_repository_start_with_its_url(path: Path) -> None:
    links = re.findall(r"https://github\.com/finmoe\S*", path.read_text(encoding="utf-8"))
    assert links
    assert all(link.startswith(PACKAGE["urls"]["Repository"]) for link in links)


# --- citation and metadata


def test_citation_agrees_with_the_package_metadata() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PACKAGE["version"]
    assert citation["license"] == PACKAGE["license"]
    assert citation["repository-code"] == PACKAGE["urls"]["Repository"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PACKAGE["authors"]]


def test_citation_refers_to_the_four_papers() -> None:
    papers = read(ROOT / "CITATION.cff")["references"]
    assert len({paper["title"] for paper in papers}) == 4
    assert all(paper["type"] and paper["authors"] for paper in papers)


def test_bill_of_materials_has_the_version_of_the_package() -> None:
    bill = json.loads((ROOT / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert bill["metadata"]["component"]["version"] == PACKAGE["version"]


def test_package_urls_point_into_the_repository() -> None:
    urls = PACKAGE["urls"]
    assert urls.keys() == {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    below = [re.sub(r"^/(?:tree|blob)/main/", "", url.removeprefix(urls["Repository"])) for url in urls.values()]
    paths = [path for path in below if path and path != "/issues"]
    assert len(paths) == 2
    assert all((ROOT / path).exists() for path in paths)


def test_package_states_its_license_once() -> None:
    """A package index rejects a license classifier next to a license expression (PEP 639)."""
    assert PACKAGE["license"] == "Apache-2.0"
    assert not [classifier for classifier in PACKAGE["classifiers"] if classifier.startswith("License ::")]


def test_package_classifiers_name_the_tested_operating_systems() -> None:
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
    """Return the instructions of the Containerfile and their arguments, without comments and line continuations."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = [line.split(maxsplit=1) for line in body.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name.upper(), argument.strip()) for name, argument in lines]


def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each build stage; the last one is the final image."""
    grouped: list[list[tuple[str, str]]] = []
    for name, argument in instructions():
        if name == "FROM":
            grouped.append([])
        grouped[-1].append((name, argument))
    return grouped


def final_argument(name: str) -> str:
    """Return the argument of the last instruction of this name in the final image."""
    return [argument for instruction, argument in stages()[-1] if instruction == name][-1]


def exec_words(argument: str) -> list[str]:
    """Return the words of an argument in exec form, without the options before it."""
    match = re.search(r"\[.*\]$", argument)
    assert match, f"not in exec form, so signals do not reach the program: {argument}"
    return json.loads(match[0])


def commands() -> list[list[str]]:
    """Return the words of every command that is called when the image is built or run."""
    calls = [
        [*exec_words(final_argument("ENTRYPOINT")), *exec_words(final_argument("CMD"))],
        exec_words(final_argument("HEALTHCHECK")),
    ]
    for name, argument in instructions():
        if name == "RUN":
            calls += [shlex.split(part) for part in re.split(r"&&|\|\||;", argument)]
    return calls


def entry_point() -> Any:
    """Load the command that the package installs as `moe`."""
    module, _ = PACKAGE["scripts"]["moe"].split(":")
    return typer.main.get_command(import_module(module).app)


def unknown_words(words: list[str]) -> list[str]:
    """Return the commands and options after `moe` that do not exist."""
    command, left = entry_point(), list(words)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    while hasattr(command, "commands") and left and not left[0].startswith("-"):
        if left[0] not in command.commands:
            return [left[0]]
        command, left = command.commands[left[0]], left[1:]
        known |= {option for parameter in command.params for option in parameter.opts}
    return [word for word in left if word.startswith("-") and word.split("=")[0] not in known]


def copied_paths() -> list[str]:
    """Return the paths of the source tree that the Containerfile copies."""
    words = [argument.split() for name, argument in instructions() if name == "COPY"]
    return [source for group in words if not group[0].startswith("--from") for source in group[:-1]]


def test_container_calls_only_existing_commands_and_options() -> None:
    ours = [words[1:] for words in commands() if words[0] == "moe"]
    assert len(ours) >= 2
    assert not [option for words in ours for option in unknown_words(words)]


def test_container_comments_show_only_existing_options() -> None:
    shown = re.findall(r"finmoe (--[a-z-]+)`", (ROOT / "Containerfile").read_text(encoding="utf-8"))
    assert shown
    assert not unknown_words(["serve", *shown])


def test_container_serves_the_mounted_model() -> None:
    assert exec_words(final_argument("ENTRYPOINT")) == ["moe", "serve"]
    assert exec_words(final_argument("CMD"))[0] == final_argument("VOLUME") == "/model"


def test_container_does_not_run_as_root() -> None:
    user = final_argument("USER").split(":")[0]
    assert user.isdigit(), "a number, so that a cluster can verify that it is not root"
    assert int(user) > 0
    users = [argument for name, argument in stages()[-1] if name == "RUN" and "useradd" in argument]
    assert any(f"--uid {user} " in argument for argument in users)


def test_container_is_based_on_one_release_of_a_supported_python() -> None:
    bases = {argument.split()[0] for name, argument in instructions() if name == "FROM"}
    assert len(bases) == 1
    match = re.fullmatch(r"python:(3\.\d+)(?:\.\d+)?-slim", bases.pop())
    assert match
    assert match[1] in classifier_pythons()


def test_container_copies_only_what_exists() -> None:
    assert copied_paths()
    assert not [path for path in copied_paths() if not (ROOT / path).exists()]


def test_container_copies_everything_that_the_wheel_needs() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", PACKAGE["readme"], *PACKAGE["license-files"], *wheel["packages"]}
    assert needed | set(wheel["force-include"]) <= set(copied_paths())


def test_container_context_contains_exactly_the_copied_files() -> None:
    lines = (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied_paths())


def test_container_installs_pinned_packages_for_serving() -> None:
    installs = [words for words in commands() if words[0].endswith("pip") and words[1] == "install"]
    *locked, own = installs
    assert own[-1].startswith("/dist/finmoe-")
    assert all("--require-hashes" in words for words in locked)
    assert [words[-1] for words in locked] == [
        f"requirements/{name}.txt" for name in ("build", "serve", "torch-cpu", "torch")
    ]
    assert all((ROOT / words[-1]).is_file() for words in locked)


def test_container_health_check_queries_the_health_route() -> None:
    code = " ".join(exec_words(final_argument("HEALTHCHECK")))
    request = re.search(r"http://127\.0\.0\.1:(\d+)/(\w+)'", code)
    assert request
    assert request[2] == "healthz"
    assert request[1] == final_argument("EXPOSE")
    sources = [path.read_text(encoding="utf-8") for path in Path(moe.serve.__file__).parent.glob("*.py")]
    assert any(f'.get("/{request[2]}"' in source for source in sources)
    compile(exec_words(final_argument("HEALTHCHECK"))[-1], "HEALTHCHECK", "exec")


def test_container_listens_on_the_address_of_its_command() -> None:
    words = exec_words(final_argument("CMD"))
    given = {option: words[words.index(option) + 1] for option in ("--host", "--port")}
    settings = ServeSettings.model_validate({option.removeprefix("--"): value for option, value in given.items()})
    assert settings.host == "0.0.0.0"
    assert str(settings.port) == final_argument("EXPOSE")


@pytest.mark.slow
def test_container_health_check_passes_until_the_service_stops(tmp_path: Path) -> None:
    settings = tmp_path / "serve.yaml"
    keys = {"probe": hashlib.sha256(b"a key").hexdigest()}
    settings.write_text(yaml.safe_dump({"keys": keys}), encoding="utf-8")
    mounted = {"/etc/finmoe/serve.yaml": str(settings), final_argument("EXPOSE"): "0"}
    words = [mounted.get(word, word) for word in exec_words(final_argument("CMD"))[1:]]
    with serve_process(write_calibrated_mixture(tmp_path), *words) as service:
        port = service.url.rsplit(":", 1)[1].strip("/")
        check = [
            sys.executable,
            "-c",
            exec_words(final_argument("HEALTHCHECK"))[-1].replace(final_argument("EXPOSE"), port),
        ]
        assert subprocess.run(check).returncode == 0
        assert service.stop() == 0
        assert subprocess.run(check, stderr=subprocess.DEVNULL).returncode != 0
