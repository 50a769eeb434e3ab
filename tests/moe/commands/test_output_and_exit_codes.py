"""Claims about the commands' manners: exit codes, JSON where the result is data, quiet, completion, colours."""

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


def typed(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`moe words…` in a process of its own."""
    known = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([*MOE, *words], env=known, capture_output=True, text=True, check=False)


@pytest.fixture
def place(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and a config, which is the working one."""
    for domain in NOUNS:
        write_csv(tmp_path / "data" / f"{domain}.csv", made_up_rows(domain))
    settings = tiny_settings(tiny_folder, tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", ["0", "1", "2", "130, 143"])
def test_every_exit_code_is_told(code: str) -> None:
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
def test_codes_are_those_of_the_page(
    words: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["moe", *words])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert int(leaving.value.code or 0) == code
    _, err = capsys.readouterr()
    assert bool(err) == bool(code)
    assert "Traceback" not in err


def test_a_fault_of_another_process_is_told_when_the_first_had_time_to_tell_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: waited.append(seconds))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys, "argv", ["moe", "verify", "nowhere"])
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # which main turns off
    with pytest.raises(SystemExit):
        cli.main()
    assert waited == [cli.MAIN_PROCESS_GRACE]
    assert capsys.readouterr().err.count("moe: Expected") == 1


def test_looking_tells_json_where_it_is_asked(place: Path) -> None:
    done = CliRunner().invoke(cli.app, ["check", "tiny.yaml", "--json"])
    assert json.loads(done.stdout) == {"config": "tiny.yaml", "faults": []}
    done = CliRunner().invoke(cli.app, ["check", "tiny.yaml", "--set", "lora.rank=2", "--set", "seed=x", "--json"])
    assert done.exit_code == 2
    assert len(json.loads(done.stdout)["faults"]) == 2
    done = CliRunner().invoke(cli.app, ["sample", "--out", "made-up", "--rows", "60", "--json"])
    assert all(Path(one).is_file() for one in json.loads(done.stdout)["files"])


@pytest.mark.parametrize(("shell", "mark"), [("bash", "complete -o"), ("zsh", "#compdef moe"), ("fish", "complete --")])
def test_completion_is_written_for_every_shell(shell: str, mark: str) -> None:
    done = typed(_MOE_COMPLETE=f"source_{shell}")
    assert done.returncode == 0
    assert mark in done.stdout


def test_completion_completes_commands() -> None:
    done = typed(_MOE_COMPLETE="complete_bash", COMP_WORDS="moe train", COMP_CWORD="1")
    assert done.stdout.split() == ["train-expert", "train-router"]


def test_help_fits_a_narrow_terminal_without_colour() -> None:
    done = typed("infer", "--help", NO_COLOR="1", COLUMNS="60", TERM="xterm", FORCE_COLOR="")
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert "\x1b" not in done.stdout
