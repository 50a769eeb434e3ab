"""Tests of the trunk: running it first and the rest later equals one pass, in every model family."""

import numpy as np
import pytest
import torch
from conftest import Make, tiny_backbone, tiny_tokenizer
from mixtures import random_mixture
from torch import Tensor

from experts.expert_io import BackboneId
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import Backbone
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode

TEXTS = ["profit rose", "moon bags fell again today and again", "bank", "calls of the chart lost", "rates"] * 3


def two_layers(family: str, make_work: Make) -> Mixture:
    """A mixture of two experts over a trunk of one layer."""
    work = make_work(backbone={"trunk_depth": 1})
    backbone = Backbone(
        tiny_backbone(family), tiny_tokenizer(), BackboneId(name=family, revision=None, sha256="0" * 64)
    )
    model = random_mixture(backbone, work)
    balance_router(model)
    return model


@torch.no_grad()
def balance_router(model: Mixture) -> None:
    """Make the router send two of the five texts to one expert and the rest to the other."""
    model.gate.net[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
    logits = model.encode_trunk(*tokens(model))[1].logits  # (B, G + E)
    model.gate.net[-1].bias[0] -= (logits[:, 0] - logits[:, 1]).quantile(0.4)


def tokens(model: Mixture) -> tuple[Tensor, Tensor]:
    out = model.loaded_backbone.tokenizer(TEXTS, padding=True, return_tensors="pt")
    return out["input_ids"], out["attention_mask"]


@torch.no_grad()
def test_trunk_followed_by_the_rest_equals_one_pass(family: str, make_work: Make) -> None:
    model = two_layers(family, make_work)
    ids, mask = tokens(model)
    full = model(ids, mask)
    states, routed = model.encode_trunk(ids, mask)
    rest = model(ids, mask, trunk=states)
    torch.testing.assert_close(rest.pooled, full.pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(routed.gates, full.routing.gates)
    torch.testing.assert_close(model(ids, mask).pooled, full.pooled, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_precomputed_trunk_states_are_used_and_the_trunk_does_not_run(family: str, make_work: Make) -> None:
    model = two_layers(family, make_work)
    ids, mask = tokens(model)
    states, _ = model.encode_trunk(ids, mask)
    calls: list[int] = []
    inner = next(
        m for m in model.trunk.layers[0].modules() if isinstance(m, torch.nn.LayerNorm) or "Norm" in type(m).__name__
    )
    inner.register_forward_hook(lambda *_: calls.append(1))
    moved = model(ids, mask, trunk=states.flip(0)).pooled
    assert not calls
    assert not torch.allclose(moved, model(ids, mask).pooled, atol=1e-3)
    assert calls


def test_predictor_with_precomputed_trunk_equals_one_hard_pass(family: str, make_work: Make) -> None:
    model = two_layers(family, make_work)
    predictor = TorchPredictor(model, "{text}", 16, "hard", batch_tokens=24)
    with torch.no_grad():
        out = model(*tokens(model), mode=RoutingMode(hard=True))
    scores = predictor.score(TEXTS)
    for head, logits in out.logits.items():
        np.testing.assert_allclose(scores.logits[head], logits.numpy(), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(scores.routing_weights, out.routing.probs.numpy(), atol=1e-5)
    assert len(set(scores.routing_weights.argmax(1))) == 2, "both experts are used"


def test_failed_pass_leaves_the_model_unchanged(make_work: Make) -> None:
    model = two_layers("bert", make_work)
    ids, mask = tokens(model)
    with torch.no_grad():
        before = model(ids, mask).pooled
        states, _ = model.encode_trunk(ids, mask)
        with pytest.raises(RuntimeError), model.single_expert("news") as mode:
            model(ids, mask, trunk=states[:, :1].expand(-1, 3, -1), mode=mode)
        torch.testing.assert_close(model(ids, mask).pooled, before)
    assert not model.bank.folded.is_in_use(("news",)), "passes outside the context compute the adapters"
