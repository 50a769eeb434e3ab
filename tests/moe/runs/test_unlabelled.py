"""Tests of texts without labels: what is read, and that they train the router."""

from pathlib import Path

import pytest
from conftest import Make

from experts.errors import Fault
from moe.data.ingest import FEATURES
from moe.runs.preflight import check_config
from moe.runs.unlabelled import NO_LABEL, read_unlabelled
from moe.training.expert_steps import train_domain
from moe.training.steps import merge_experts, train_router


def test_unlabelled_texts_are_rows_without_label_and_score_each_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to the moon\n\nto the moon\nbags\n", encoding="utf-8")
    rows = read_unlabelled([tmp_path / "a.txt"], "forum", "posts", max_rows=10, seed=1)
    assert rows.features == FEATURES
    assert rows["text"] == ["to the moon", "bags"]
    assert rows["id"] == ["a-1", "a-4"]
    assert set(rows["label"]) == {NO_LABEL}
    assert set(rows["score"]) == {None}
    assert set(rows["task"]) == {"posts"}


def test_unlabelled_texts_over_the_limit_are_a_reproducible_sample(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"text {i}" for i in range(50)), encoding="utf-8")
    first, again, other = (
        read_unlabelled([tmp_path / "a.txt"], "forum", "posts", max_rows=7, seed=seed)["line"][:] for seed in (1, 1, 2)
    )
    assert len(first) == 7
    assert first == again == sorted(first)
    assert first != other


def test_unlabelled_file_without_a_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n', encoding="utf-8")
    with pytest.raises(Fault, match="texts of the domain forum"):
        read_unlabelled([tmp_path / "a.jsonl"], "forum", "posts", max_rows=7, seed=1)


def test_unlabelled_file_that_is_missing_is_an_error_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "sample: {rows: 60}\ndomains: {forum: {unlabelled: [gone.txt]}}\n", encoding="utf-8"
    )
    with pytest.raises(Fault, match=r"domains\.forum\.unlabelled: no file at gone\.txt"):
        check_config(tmp_path / "run.yaml")


def test_unlabelled_texts_train_the_router_and_no_expert(make_work: Make, tmp_path: Path) -> None:
    texts = [f"lambo tendies number{i} diamond hands" for i in range(40)]
    (tmp_path / "data" / "posts.txt").write_text("\n".join(texts), encoding="utf-8")
    gates, experts = [], []
    for name, files in (("without", []), ("with", ["posts.txt"])):
        work = make_work(name, domains={"forum": {"unlabelled": files}})
        for domain in work.run.domains:
            train_domain(work, domain)
        experts.append((work.out / "experts" / "forum" / "adapter_model.safetensors").read_bytes())
        merge_experts(work)
        train_router(work)
        gates.append((work.out / "router-warmup" / "router.safetensors").read_bytes())
    assert experts[0] == experts[1]
    assert gates[0] != gates[1]
