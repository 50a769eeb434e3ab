"""A command line for tests: types `moe …` in a folder of its own, within this process."""

import sys
from pathlib import Path

import pytest
import yaml
from conftest import NOUNS, made_up_rows, tiny_settings, write_csv

from moe.commands import main

Result = tuple[int, str, str]


class CommandLine:
    """Types commands in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.patch, self.capsys = folder, monkeypatch, capsys

    def __call__(self, *words: str) -> Result:
        """Type `moe words…` and give exit code, output, errors."""
        self.capsys.readouterr()
        with self.patch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["moe", *words])
            try:
                main.main()
                code = 0
            except SystemExit as leaving:
                code = int(leaving.code or 0)
        out, err = self.capsys.readouterr()
        return code, out, err

    def refused(self, *words: str) -> str:
        """Type a command that must be refused; give its one sentence."""
        code, out, err = self(*words)
        told = [line for line in err.splitlines() if line.startswith("moe: ")]
        assert code == 2, (code, out, err)
        assert "Traceback" not in err
        assert len(told) == 1, err
        return told[0]


@pytest.fixture(scope="module")
def place(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a config, where the tests type."""
    folder = tmp_path_factory.mktemp("commands")
    for domain in NOUNS:
        write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_settings(tiny_folder, folder / "data"), sort_keys=False))
    return folder


@pytest.fixture
def moe(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Types commands in `place`."""
    return CommandLine(place, monkeypatch, capsys)
