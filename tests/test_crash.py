"""Tests of the crash test in `benchmarks/`: it covers every stage, and notices every kind of difference."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("crash")


def test_crash_test_kills_every_command_that_writes_weights_or_answers(crash: ModuleType) -> None:
    commands = [step.command for step in crash.STEPS]
    names = {command[0] for command in commands}
    assert {"train-expert", "merge", "train-router", "run", "evaluate", "calibrate", "infer", "export"} <= names
    assert {command[-1].rpartition(".")[2] for command in commands if command[0] == "infer"} == {
        "csv",
        "jsonl",
        "parquet",
    }


def test_crash_test_compares_all_files_but_logs_and_checkpoints(crash: ModuleType, tmp_path: Path) -> None:
    def write(name: str, content: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    for name in ("run/experts/news/a.json", "run/logs/news/log.jsonl", "run/checkpoints/news/a", "answers/a.csv"):
        write(name, "1")
    before = crash.files_of(tmp_path)
    assert before.keys() == {"run/experts/news/a.json", "answers/a.csv"}
    write("run/logs/news/log.jsonl", "2")
    assert crash.files_of(tmp_path) == before
    write("answers/.a.csv.1@host.lines", "")
    write("run/experts/news/a.json", "2")
    after = crash.files_of(tmp_path)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {
        "run/experts/news/a.json",
        "answers/.a.csv.1@host.lines",
    }


def test_crash_test_counts_what_survived_and_replaces_only_its_table(crash: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{crash.MARKS[0]}\nold\n{crash.MARKS[1]}\nafter\n")
    outcomes = {"merge": crash.Outcome(commands=3, kills=4, writing=2, faults=["merge: differs"])}
    rows = list(crash.rows_of(outcomes))
    assert rows[0] == ("merge", "3", "4", "2", "2 of 3")
    crash.write_page(page, rows, "python benchmarks/crash.py")
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    assert "| merge | 3 | 4 | 2 | 2 of 3 |" in lines
