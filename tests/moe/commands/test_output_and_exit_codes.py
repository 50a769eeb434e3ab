"""Tests for exit codes, JSON output, shell completion and narrow terminals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import NOUNS, made_up_rows, tiny_settings, write_csv
from typer.testing import CliRunner

from moe.commands import main as cli

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "commands.md"
MOE = [sys.executable, "-c", "import sys; sys.argv[0] = 'moe'; from moe.commands import main; main.main()"]


def run_moe(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `moe words…` in a separate process."""
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([*MOE, *words], env=variables, capture_output=True, text=True, check=False)


@pytest.fixture
def workdir(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder, with data and a config."""
    for domain in NOUNS:
        write_csv(tmp_path / "data" / f"{domain}.csv", made_up_rows(domain))
    settings = tiny_settings(tiny_folder, tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", ["0", "1", "2", "130, 143"])
def test_page_lists_every_exit_code(code: str) -> None:
    assert f"| {code} | " in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--version",), 0),
        (("check", "nowhere.yaml"), 2),
        (("--quiet", "--verbose", "check", "nowhere.yaml"), 2),
        (("infer", "--no-such-option"), 2),
        (("verify", "nowhere"), 2),
    ],
)
def test_exit_codes_are_those_of_the_page(
    words: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["moe", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert int(exit_.value.code or 0) == code
    _, err = capsys.readouterr()
    assert bool(err) == bool(code)
    assert "Traceback" not in err


def test_fault_of_a_secondary_process_is_printed_after_a_grace_period(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: waited.append(seconds))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys, "argv", ["moe", "verify", "nowhere"])
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # `main` replaces it
    with pytest.raises(SystemExit):
        cli.main()
    sys.stdout.close()
    assert waited == [cli.MAIN_PROCESS_GRACE]
    assert capsys.readouterr().err.count("moe: Expected") == 1


def test_check_and_sample_print_json_on_request(workdir: Path) -> None:
    result = CliRunner().invoke(cli.app, ["check", "tiny.yaml", "--json"])
    report = json.loads(result.stdout)
    assert (report["config"], report["faults"]) == ("tiny.yaml", [])
    result = CliRunner().invoke(cli.app, ["check", "tiny.yaml", "--set", "lora.rank=2", "--set", "seed=x", "--json"])
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)["faults"]) == 2
    result = CliRunner().invoke(cli.app, ["sample", "--out-dir", "made-up", "--rows", "60", "--json"])
    assert all(Path(file).is_file() for file in json.loads(result.stdout)["files"])


@pytest.mark.parametrize(("shell", "mark"), [("bash", "complete -o"), ("zsh", "#compdef moe"), ("fish", "complete --")])
def test_completion_script_is_printed_for_every_shell(shell: str, mark: str) -> None:
    result = run_moe(_MOE_COMPLETE=f"source_{shell}")
    assert result.returncode == 0
    assert mark in result.stdout


def test_completion_proposes_commands() -> None:
    result = run_moe(_MOE_COMPLETE="complete_bash", COMP_WORDS="moe train", COMP_CWORD="1")
    assert result.stdout.split() == ["train-expert", "train-router"]


def test_help_fits_a_narrow_terminal_without_colour() -> None:
    result = run_moe("infer", "--help", NO_COLOR="1", COLUMNS="60", TERM="xterm", FORCE_COLOR="")
    assert max(map(len, result.stdout.splitlines())) <= 60
    assert "\x1b" not in result.stdout
