"""Tests of `benchmarks/ready.py`: a tiny run with its teacher."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import made_up_rows, write_csv

from moe.data.distilled.soft_labels import read_origin

Run = Callable[..., str]


def write_lines(path: Path, lines: list[str]) -> None:
    """Write the lines of a text file."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def lawful(data: Path) -> Path:
    """The folder of data with the files of configs/ready.yaml, and those that the ready mixture never sees."""
    rows = made_up_rows("news", count=90, seed=1)
    entities = [
        json.dumps({"id": f"{row['id']}-{entity}", "text": row["text"], "entity": entity, "label": label})
        for row in rows
        for entity, label in (("Delmore", row["label"]), ("Kestor", "neutral"))
    ]
    write_lines(data / "sentfin_entities.jsonl", entities[:120])
    write_lines(data / "finentity.jsonl", entities[60:])
    for name, domain in (("corpus_micro_filings", "macro"), ("corpus_forum_stocktweets", "forum")):
        write_lines(data / f"{name}.txt", [row["text"] for row in made_up_rows(domain, count=30, seed=2)])
    write_csv(data / "fpb.csv", [row | {"id": f"{row['id']}-agree100"} for row in rows])
    write_csv(data / "fiqa_sa.csv", [row | {"score": (-1) ** i * 0.5} for i, row in enumerate(rows)])
    return data


@pytest.mark.slow
def test_distilled_mixture_learns_its_teachers_answers_and_its_card_says_so(
    benchmark: Callable[[str], ModuleType],
    run: Run,
    lawful: Path,
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ready = benchmark("ready")
    monkeypatch.setattr(ready, "STATEMENTS", {task: (name, 60) for task, (name, _) in ready.STATEMENTS.items()})
    settings = ["backbone.max_length=16", *(f"stages.shared.{key}=2" for key in ("steps", "batch_size"))]
    words = [word for setting in settings for word in ("--teacher-set", setting)]
    command = [
        "--backbone",
        tiny_folder,
        "--work",
        tmp_path / "run",
        "--out",
        tmp_path / "ready",
        *words,
    ]
    printed = run(ready, lawful, *command)
    assert "Financial PhraseBank, all rows: accuracy" in printed
    card = (tmp_path / "ready" / "README.md").read_text(encoding="utf-8")
    assert "**Teacher:** one LoRA" in card
    assert "TAT-QA" in card
    assert str(tmp_path) not in card
    assert str(tmp_path) not in (tmp_path / "ready" / "config.yaml").read_text(encoding="utf-8")
    assert "teacher, FinEntity, entities: accuracy" in printed
    for domain, task in (("news", "headlines"), ("news", "headline_entities"), ("forum", "tweets"), ("forum", "posts")):
        origin = read_origin(tmp_path / "run" / "distilled" / domain / f"{task}.parquet")
        assert origin is not None, task
        assert json.loads(origin)["report"]["labelled"], task
    log = (tmp_path / "run" / "logs" / "shared" / "log.jsonl").read_text(encoding="utf-8")
    assert '"teacher": ' in log, "the stage has a loss of the teacher's answers"


def test_files_of_statements_are_named_only_for_the_tasks_of_a_config(
    benchmark: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    ready = benchmark("ready")
    tasks = {
        config: [line.split(".")[3] for line in ready.statement_files(config, tmp_path)]
        for config in (ready.CONFIG, ready.TEACHER_CONFIG)
    }
    assert tasks == {
        ready.CONFIG: ["statements", "statement_entities", "posts"],
        ready.TEACHER_CONFIG: ["statements", "statement_entities", "posts"],
    }
