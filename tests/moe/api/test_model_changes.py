"""Tests of FinMoEModel for users of Hugging Face: options of loading, states, experts added, removed and merged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, Make
from mixtures import save_random_mixture
from transformers import BertModel

from moe import Fault, FinMoEModel
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.steps import merge_experts

TEXTS = ["profit rose", "moon bags fell again today and again", "bank"]
THREE = {name: {"file": f"{name}.csv", "labels": list(LABELS)} for name in ("news", "forum", "macro")}


@pytest.fixture
def model(make_work: Make) -> FinMoEModel:
    """A mixture of two random experts."""
    work = make_work()
    folder = save_random_mixture(work.out / "moe-joint", load_backbone(work.run.backbone), work)
    return FinMoEModel.from_pretrained(folder)


@pytest.fixture
def run(make_work: Make) -> Workspace:
    """A run with three trained experts, of which news and forum are merged."""
    work = make_work(domains=THREE)
    folders = [folder for name in THREE for folder in train_domain(work, name)]
    merge_experts(work, folders[:2])
    return work


def test_routing_weights_are_those_of_the_answers(model: FinMoEModel) -> None:
    weights = model.get_routing_weights(TEXTS)  # (B, E)
    expected = [[answer["experts"][name] for name in model.experts] for answer in model.answers(TEXTS)]
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert model.get_routing_weights([]).shape == (0, 2)


def test_encode_returns_the_states_from_which_the_heads_predict(model: FinMoEModel) -> None:
    states = model.encode(TEXTS)
    predictor = model.torch_predictor
    (row,) = predictor.pad([predictor.encode(TEXTS[:1])[0][0]], np.array([0]))[:1]
    with torch.inference_mode():
        expected = predictor.model(row, torch.ones_like(row)).pooled  # (1, D)
    np.testing.assert_allclose(states[:1], expected.numpy(), atol=1e-5)
    assert states.shape == (3, 32)
    assert model.encode([]).shape == (0, 32)


def test_options_of_loading_change_the_backbone_and_unknown_ones_are_refused(model: FinMoEModel) -> None:
    overrides = {"backbone": {"max_length": 8}}
    other = FinMoEModel.from_pretrained(
        model.folder, dtype=torch.bfloat16, device_map="cpu", overrides=overrides, routing="hard"
    )
    assert isinstance(other.predictor, TorchPredictor)
    assert (other.predictor.max_length, other.routing) == (8, "hard")
    assert other.predictor.model.backbone.dtype == torch.bfloat16
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"overrides": {"lora": {"r": 2}}}, "remove this --set"),
        ({"overrides": {"backbone": {"max_lenght": 8}}}, "max_length"),
        ({"overrides": {"backbone": {"name": object()}}}, "as the value of a setting|as text, a number"),
        ({"device_map": "cuda:77"}, "backbone.device"),
        ({"device_map": "gpu"}, "backbone.device"),
        ({"dtype": "float8"}, "backbone.dtype"),
    )
    for options, message in wrong:
        with pytest.raises(Fault, match=f"(?i){message}"):
            FinMoEModel.from_pretrained(model.folder, **options)


def test_added_expert_joins_without_training_and_removing_it_restores_the_mixture(run: Workspace) -> None:
    model = FinMoEModel.from_pretrained(run.out / "moe-init")
    grown = model.add_expert(run.expert_folder("macro"))
    assert (model.experts, grown.experts) == (("news", "forum"), ("news", "forum", "macro"))
    assert grown.predict(TEXTS, domain="news") == model.predict(TEXTS, domain="news")
    back = grown.remove_expert("macro")
    np.testing.assert_array_equal(back.predict_proba(TEXTS), model.predict_proba(TEXTS))


def test_changed_mixture_is_written_where_it_was_asked_to(run: Workspace, tmp_path: Path) -> None:
    model = FinMoEModel.from_pretrained(run.out / "moe-init")
    grown = model.add_expert(run.expert_folder("macro"), folder=tmp_path / "grown")
    assert grown.folder == tmp_path / "grown"
    with pytest.raises(Fault, match="grown"):
        model.add_expert(run.expert_folder("macro"), folder=tmp_path / "grown")
    with pytest.raises(Fault, match="unused name"):
        grown.add_expert(run.expert_folder("macro"))
    with pytest.raises(Fault, match="one of the experts"):
        grown.remove_expert("macros")


def test_merged_backbone_computes_the_states_of_one_expert(model: FinMoEModel) -> None:
    merged = model.merge_and_unload("news")
    assert isinstance(merged, BertModel)
    predictor = model.torch_predictor
    inputs = predictor.pad(predictor.encode(TEXTS)[0], np.arange(len(TEXTS)))  # (B, T) each
    with torch.inference_mode(), predictor.model.single_expert("news") as mode:
        expected = predictor.model(*inputs, mode=mode).pooled  # (B, D)
        states = merged(input_ids=inputs[0], attention_mask=inputs[1]).last_hidden_state  # (B, T, D)
    mask = inputs[1][..., None]  # (B, T, 1)
    torch.testing.assert_close((states * mask).sum(1) / mask.sum(1), expected, atol=1e-5, rtol=1e-5)
    assert model.predict(TEXTS), "the model itself stays as it is"
    for arguments in ({}, {"expert": "news", "method": "cat"}, {"expert": "new"}):
        with pytest.raises(Fault):
            model.merge_and_unload(**arguments)


def test_trainable_parameters_are_experts_router_and_heads(
    model: FinMoEModel, capsys: pytest.CaptureFixture[str]
) -> None:
    model.print_trainable_parameters()
    trained = sum(tensor.numel() for tensor in model.torch_predictor.model.trained_state().values())
    assert f"trainable params: {trained:,} || all params: " in capsys.readouterr().out
