"""Tests of FinMoETrainer: a mixture trained on data sets, and the data sets that it refuses."""

from pathlib import Path
from typing import Any

import pytest
from conftest import made_up_rows, save_backbone
from datasets import ClassLabel, Dataset
from transformers import TrainerCallback

from moe import Fault, FinMoEModel, FinMoETrainer

LABELS = ["negative", "neutral", "positive"]


def data_set(domain: str, count: int = 60) -> Dataset:
    """Rows of the made-up sample, their labels as a `ClassLabel`."""
    rows = made_up_rows(domain)[:count]
    dataset = Dataset.from_list([{"text": row["text"], "label": row["label"]} for row in rows])
    return dataset.cast_column("label", ClassLabel(names=LABELS))


class StepCounter(TrainerCallback):
    """Counts optimizer steps and evaluations of all stages."""

    def __init__(self) -> None:
        self.steps, self.evaluations = 0, 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Count a step."""
        self.steps += 1

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Count an evaluation."""
        self.evaluations += 1


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Settings that train a tiny backbone in seconds."""
    steps = {"steps": 2, "min_steps": 1, "evals": 1, "batch_size": 4}
    overrides = {
        "shared": None,
        "backbone": {"name": str(save_backbone(tmp_path / "backbone", "bert")), "max_length": 16, "trunk_depth": 0},
        "lora": {"r": 2},
        "stages": dict.fromkeys(("expert", "warmup", "joint"), steps),
        "track": [],
    }
    return {"overrides": overrides, "output_dir": tmp_path / "run", "seed": 0}


def test_trainer_trains_a_mixture_on_one_data_set_per_domain(options: dict[str, Any], tmp_path: Path) -> None:
    counter, datasets = StepCounter(), {"news": data_set("news"), "forum": data_set("forum")}
    trainer = FinMoETrainer(datasets, callbacks=[counter], **options)
    model = trainer.train()
    assert (model.experts, list(model.classes_)) == (("news", "forum"), LABELS)
    assert counter.steps == 2 * 4, "two experts, warm start and joint stage, two steps each"
    assert counter.evaluations >= 4
    report = trainer.evaluate(datasets)
    assert report.tasks.keys() == {"news", "forum"}
    assert FinMoEModel.from_pretrained(tmp_path / "run").predict(["profit rose"]) == model.predict(["profit rose"])


def test_trainer_selects_on_the_evaluation_rows_and_does_not_train_on_them(
    options: dict[str, Any], tmp_path: Path
) -> None:
    train, held_out = data_set("news").select(range(40)), data_set("news").select(range(40, 60))
    FinMoETrainer({"news": train}, {"news": held_out}, **options).train()
    lines = (tmp_path / "run" / "rows" / "news.jsonl").read_text(encoding="utf-8").splitlines()
    assert ['"train"' in line for line in lines] == [True] * 40 + [False] * 20
    assert ['"validation"' in line for line in lines] == [False] * 40 + [True] * 20


def test_trainer_names_a_missing_column_label_or_domain(options: dict[str, Any]) -> None:
    news = data_set("news")
    with pytest.raises(Fault, match="columns text and label in the rows of news"):
        FinMoETrainer({"news": news.remove_columns("label")}, **options)
    with pytest.raises(Fault, match="training rows of at least one domain"):
        FinMoETrainer({}, **options)
    with pytest.raises(Fault, match="evaluation rows of the domains news"):
        FinMoETrainer({"news": news}, {"forum": news}, **options)
    with pytest.raises(Fault, match=r"lora\.rank"):
        FinMoETrainer({"news": news}, overrides={"lora": {"rank": 2}})
    unlabelled = Dataset.from_dict({"text": ["profit rose", "profit fell"], "label": ["positive", None]})
    with pytest.raises(Fault, match="a missing label"):
        FinMoETrainer({"news": unlabelled}, **options)
    with pytest.raises(Fault, match="Call train first"):
        FinMoETrainer({"news": news}, **options).evaluate({"news": news})
