"""Claims about the pooled LoRA: where it begins, its rank and rows, and that it is no part of the mixture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Make

from experts.adapter import resolve_adapter
from experts.adapter_bank import ExpertBank
from experts.expert_io import read_expert
from experts.lora import LayerMap
from moe.checkpoints.expert import load_single_expert
from moe.config.stages import StageSettings
from moe.evaluation.evaluate import evaluate
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace
from moe.training import pooled
from moe.training.expert_steps import train_domain, train_shared
from moe.training.pooled import pooled_settings, rows_read, train_pooled, widen
from moe.training.steps import merge_experts

STAGES = {name: {"steps": 3, "lr": 1e-12, "head_lr": 1e-12} for name in ("shared", "expert")}
"""Steps that leave the weights as they are."""


def ranks(folder: Path) -> set[int]:
    card = read_expert(folder).card
    assert card is not None
    return {spec.rank for spec in card.layers.values()}


def predictions(folder: Path, work: Workspace) -> dict[str, list[float]]:
    model, run = load_single_expert(folder)
    rows = evaluate(model, work.rows("test"), run.template, 16)[1]
    return {str(row.row["id"]): row.masked.probabilities.tolist() for row in rows}


@pytest.fixture
def source(make_work: Make) -> Path:
    """Folder of a trained shared expert of another run, of rank 3."""
    return train_shared(make_work("source", shared={"r": 3, "alpha": 6}))


@pytest.mark.parametrize(("shared", "rank"), [(None, 8), ({"r": 5, "alpha": 10}, 13)])
def test_fresh_pooled_lora_has_the_rank_of_all_experts_and_the_scaling_of_one(
    make_work: Make, shared: dict[str, Any] | None, rank: int
) -> None:
    work = make_work(shared=shared)
    folder = train_pooled(work)
    card = read_expert(folder).card
    assert card is not None
    assert folder == work.out / "pooled"
    assert {(spec.rank, spec.scaling) for spec in card.layers.values()} == {(rank, 2.0)}
    assert (card.shared, card.init, card.always_on) == (None, None, False)
    assert card.tasks.keys() == {"news", "forum"}
    assert torch.cat([value.flatten() for key, value in read_expert(folder).weights.items() if "lora_B" in key]).any()


def test_pooled_lora_begins_at_the_function_of_the_shared_experts_start(make_work: Make, source: Path) -> None:
    work = make_work(shared={"init": str(source), "frozen": False}, stages=STAGES)
    folder = train_pooled(work)
    card = read_expert(folder).card
    assert card is not None
    assert card.init is not None
    assert card.init.source == source.name
    assert ranks(folder) == {3 + 2 * 4}
    start, pooled_rows = predictions(source, work), predictions(folder, work)
    for name, expected in start.items():
        assert pooled_rows[name] == pytest.approx(expected, abs=1e-5)


def test_pooled_lora_on_a_frozen_expert_has_the_rank_of_the_routed_experts(make_work: Make, source: Path) -> None:
    work = make_work(shared={"init": str(source)}, stages=STAGES)
    train_shared(work)
    folder = train_pooled(work)
    card = read_expert(folder).card
    assert card is not None
    assert card.shared == read_expert(work.out / "experts" / "shared").digest
    assert ranks(folder) == {2 * 4}
    start, pooled_rows = predictions(source, work), predictions(folder, work)
    assert pooled_rows == {name: pytest.approx(expected, abs=1e-5) for name, expected in start.items()}


@pytest.mark.parametrize("rslora", [False, True])
def test_wider_adapter_has_the_scaling_of_every_layer_in_peft_s_config(make_work: Make, rslora: bool) -> None:
    work = make_work()
    layers = LayerMap.from_model(load_backbone(work.run.backbone).model)
    from peft import LoraConfig

    config = LoraConfig(
        r=3,
        lora_alpha=6,
        use_rslora=rslora,
        target_modules=["query", "value", "dense"],
        rank_pattern={"query": 5},
        alpha_pattern={"value": 4},
    )
    adapter = resolve_adapter(layers, config)
    wider = widen(adapter, 8)
    assert {path: spec.rank for path, spec in wider.layers.items()} == {
        path: spec.rank + 8 for path, spec in adapter.layers.items()
    }
    from_config = resolve_adapter(layers, LoraConfig(**wider.peft_config))
    for path, spec in from_config.layers.items():
        assert spec.rank == wider.layers[path].rank
        assert spec.scaling == pytest.approx(adapter.layers[path].scaling) == pytest.approx(wider.layers[path].scaling)
    ExpertBank(load_backbone(work.run.backbone).model, 0).add_adapter("pooled", wider)


def test_pooled_lora_reads_as_many_rows_as_the_shared_and_the_experts_stage(make_work: Make) -> None:
    few = {"steps": None, "min_steps": 1, "batch_size": 8}
    work = make_work(shared={"r": 2}, stages={"shared": few | {"epochs": 2.5}, "expert": few | {"epochs": 3}})
    train, shared, each = work.rows("train"), 35, 21  # 108 rows in 14 batches, 54 of each domain in 7
    assert (len(train), pooled_settings(work, train).steps) == (108, shared + 2 * each)
    steps = make_work(shared={"r": 2}, stages={"shared": {"steps": 9}, "expert": {"steps": 6}})
    assert pooled_settings(steps, train).steps == 9 + 2 * 6
    alone = make_work(stages={"expert": few | {"epochs": 3, "min_steps": 40, "batch_size": 16, "accumulate": 2}})
    assert pooled_settings(alone, train).steps == 2 * 40
    assert rows_read(StageSettings(steps=5, batch_size=4, accumulate=2), 100) == 40
    assert rows_read(StageSettings(epochs=3, batch_size=4, max_steps=10), 100) == 40


def test_finished_pooled_lora_is_kept_and_no_merge_reads_it(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(stages=STAGES)
    for domain in ("news", "forum"):
        train_domain(work, domain)
    folder = train_pooled(work)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert not (work.out / "experts" / "pooled").exists()
    assert (merge_experts(work) / "mixture.json").read_text().count('"pooled"') == 0
    with monkeypatch.context() as patch:
        patch.setattr(pooled, "run_stage", None)
        assert train_pooled(work, resume=True) == train_pooled(work) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    train_pooled(make_work(stages=STAGES, lora={"r": 2}))
    assert ranks(folder) == {2 * 2}, "with other settings it is trained again"
