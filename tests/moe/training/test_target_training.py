"""Training with a target task beside a text-level task: experts, mixture, cards, cache and evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Make, entity_tasks

from experts.errors import Fault
from experts.expert_io import CARD, read_expert, read_expert_card
from moe.checkpoints.mixture import read_card
from moe.evaluation.evaluate import evaluate_folder
from moe.merging.merge import check_merge
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router


def test_run_with_a_target_task_trains_merges_and_evaluates_it(make_work: Make, tmp_path: Path) -> None:
    work = make_work(domains=entity_tasks(), shared={"r": 2, "alpha": 4})
    train_shared(work)
    for domain in ("news", "forum"):
        train_domain(work, domain)
    merge_experts(work)
    train_router(work)
    folder = work.out / "moe-joint"
    for name in ("news", "shared"):
        path = work.shared_folder if name == "shared" else work.expert_folder(name)
        assert path is not None
        assert read_expert_card(path / CARD).target_tasks == ("entities",)
        assert "`entities`: negative, neutral, positive, for a target" in (path / "README.md").read_text()
    assert read_expert_card(work.expert_folder("forum") / CARD).target_tasks == ()
    assert [domain.target_tasks for domain in read_card(folder).domains] == [("entities",), ()]
    report = evaluate_folder(work, folder, (), data=None, domain=None, routing="soft", pin=False, per_expert=True)
    assert report.tasks["entities"].rows == len(work.prepared("news")["entities"].splits["test"])
    assert set(report.tasks_routed) == {"news", "entities", "forum"}
    results = work.out / "evaluation" / folder.name
    assert any("target" in (results / name).read_text().splitlines()[0] for name in ("right.csv", "wrong.csv"))
    assert "target" in (results / "alone.csv").read_text().splitlines()[0]


def test_cached_trunk_states_depend_on_the_target(make_work: Make) -> None:
    plain = make_work("plain", domains=entity_tasks())
    stages = plain.run.stages.model_dump(mode="json") | {"cache_trunk": True}
    cached = make_work("cached", domains=entity_tasks(), stages=stages)
    for work in (plain, cached):
        train_domain(work, "news")
    first, second = (read_expert(work.expert_folder("news")).weights for work in (plain, cached))
    for key, tensor in first.items():
        np.testing.assert_allclose(tensor, second[key], atol=1e-4, rtol=1e-3)


def test_card_without_target_tasks_is_read_as_having_none(make_work: Make) -> None:
    work = make_work()
    train_domain(work, "news")
    path = work.expert_folder("news") / CARD
    card = json.loads(path.read_text())
    del card["target_tasks"]
    path.write_text(json.dumps(card))
    assert read_expert_card(path).target_tasks == ()


def test_merge_refuses_an_expert_whose_task_had_a_target(make_work: Make) -> None:
    work = make_work(domains=entity_tasks())
    train_domain(work, "news")
    other = make_work("other", domains=entity_tasks(columns={"target": None})).run
    expert = read_expert(work.expert_folder("news"))
    assert expert.card is not None
    with pytest.raises(Fault, match="none for task entities"):
        check_merge(other, [expert], expert.card.backbone)


def test_evaluation_of_a_file_uses_the_tasks_that_fit_its_columns(make_work: Make, tmp_path: Path) -> None:
    work: Workspace = make_work(domains=entity_tasks())
    train_domain(work, "news")
    for name, task in (("entities", "entities"), ("news", "news")):
        file = tmp_path / "data" / f"{name}.csv"
        report = evaluate_folder(work, work.expert_folder("news"), (), file, "news", "soft", pin=False)
        assert list(report.tasks) == [task]
