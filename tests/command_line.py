"""Command line for tests: runs `moe …` within the test process, in a folder of its own."""

import sys
from pathlib import Path

import pytest
import yaml
from conftest import NOUNS, made_up_rows, tiny_settings, write_csv

from moe.commands import main

Result = tuple[int, str, str]


class CommandLine:
    """Runs commands in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.patch, self.capsys = folder, monkeypatch, capsys

    def __call__(self, *words: str) -> Result:
        """Run `moe words…` and return exit code, standard output and standard error."""
        self.capsys.readouterr()
        with self.patch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["moe", *words])
            try:
                main.main()
                code = 0
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        out, err = self.capsys.readouterr()
        return code, out, err

    def refused(self, *words: str) -> str:
        """Run a command that must fail with a fault; return the fault's line."""
        code, out, err = self(*words)
        faults = [line for line in err.splitlines() if line.startswith("moe: ")]
        assert code == 2, (code, out, err)
        assert "Traceback" not in err
        assert len(faults) == 1, err
        return faults[0]


@pytest.fixture(scope="module")
def workdir(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with data and a config."""
    folder = tmp_path_factory.mktemp("commands")
    for domain in NOUNS:
        write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_settings(tiny_folder, folder / "data"), sort_keys=False))
    return folder


@pytest.fixture
def moe(workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Command line in `workdir`."""
    return CommandLine(workdir, monkeypatch, capsys)
