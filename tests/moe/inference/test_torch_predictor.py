"""Claims about texts batched by the experts that they keep: each text has the answers that it has alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Make, family_params, save_backbone
from mixtures import random_mixture

from moe.inference import batches, torch_predictor
from moe.inference.torch_predictor import TorchPredictor
from moe.inference.windows import Scores
from moe.model.backbone import load_backbone
from moe.model.mixture import Mixture
from moe.model.mode import Routing
from router.prior import RouterPrior

WORDS = ["profit", "rose", "moon", "bags", "fell", "bank", "calls", "of", "chart", "lost", "rates", "sales", "orders"]
TEXTS = [" ".join(WORDS[(i * 7 + j * 3) % len(WORDS)] for j in range(1 + i % 9)) for i in range(60)]


def sharpen(model: Mixture, factor: float) -> Mixture:
    """Scale the router's last layer, so that texts have different, partly extreme gates."""
    assert model.gate is not None
    with torch.no_grad():
        last = model.gate.net[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight.normal_(std=factor)
    return model


def predictor_of(model: Mixture, routing: Routing, prune: float = 0.2, tokens: int = 64) -> TorchPredictor:
    """Return a predictor that prunes at this threshold."""
    assert model.gate is not None
    model.gate.settings = model.gate.settings.model_copy(update={"prune": prune})
    return TorchPredictor(model, "{text}", 16, routing, batch_tokens=tokens)


def assert_close(scores: Scores, expected: Scores, tolerance: float = 1e-4) -> None:
    """Check logits, polarity and routing weights."""
    for head, logits in expected.logits.items():
        np.testing.assert_allclose(scores.logits[head], logits, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(scores.routing_weights, expected.routing_weights, atol=1e-5)


def one_by_one(predictor: TorchPredictor, texts: list[str], pin: list[str | None] | None = None) -> Scores:
    """Return the scores of texts in batches of one, without folded weights."""
    limit, predictor.model.bank.folded.limit = predictor.model.bank.folded.limit, 0
    alone = [predictor.score([text], [pin[i]] if pin else None) for i, text in enumerate(texts)]
    predictor.model.bank.folded.limit = limit
    return Scores(
        {head: np.concatenate([s.logits[head] for s in alone]) for head in alone[0].logits},
        None,
        np.concatenate([s.routing_weights for s in alone]),
        np.concatenate([s.truncated for s in alone]),
    )


@pytest.mark.parametrize("routing", ["soft", "pruned", "hard"])
@pytest.mark.parametrize("heads", ["averaged", "per_expert"])
def test_scores_are_those_of_each_text_alone(
    routing: Routing, heads: str, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_predictor, "FOLD_TOKENS", 30)
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work, heads=heads, experts=2, shared=True)
    predictor = predictor_of(sharpen(model, 1.0), routing)
    scores = predictor.score(TEXTS)
    assert_close(scores, one_by_one(predictor, TEXTS))
    assert bool(model.bank.folded.kept) == (routing != "soft"), "texts that keep one expert run on folded weights"


@pytest.mark.parametrize("family", family_params("bert", "gpt2", "deberta-v2"))
@pytest.mark.parametrize("trunk_depth", [0, 1])
def test_pruned_scores_do_not_depend_on_the_batch_in_any_family(
    family: str, trunk_depth: int, make_work: Make, tmp_path: Path
) -> None:
    save_backbone(tmp_path / family, family)
    work = make_work(backbone={"name": str(tmp_path / family), "trunk_depth": trunk_depth})
    model = sharpen(random_mixture(load_backbone(work.run.backbone), work, experts=2), 1.0)
    predictor = predictor_of(model, "pruned")
    assert_close(predictor.score(TEXTS), one_by_one(predictor, TEXTS))


@pytest.mark.parametrize("routing", ["pruned", "hard"])
def test_scores_do_not_depend_on_how_many_batches_are_held_at_once(
    routing: Routing, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(backbone={"trunk_depth": 1})
    model = sharpen(random_mixture(load_backbone(work.run.backbone), work, experts=2, shared=True), 1.0)
    predictor, pin = predictor_of(model, routing), [None, "news", "forum"] * 20
    expected = [predictor.score(TEXTS), predictor.score(TEXTS, pin)]
    held = []
    forward = predictor._forward_by_experts
    monkeypatch.setattr(batches, "HELD_BATCHES", 2)
    monkeypatch.setattr(predictor, "_forward_by_experts", lambda *rest: held.append(len(rest[1])) or forward(*rest))
    for pinned, scores in zip((None, pin), expected, strict=True):
        assert_close(predictor.score(TEXTS, pinned), scores)
    assert len(held) > 4
    assert max(held) == 2


def test_pruning_changes_scores_of_texts_with_small_weights_only(make_work: Make) -> None:
    work = make_work()
    model = sharpen(random_mixture(load_backbone(work.run.backbone), work, experts=2), 0.5)
    soft, pruned = (predictor_of(model, routing).score(TEXTS) for routing in ("soft", "pruned"))
    small = ((soft.routing_weights > 0) & (soft.routing_weights < 0.2)).any(1)  # (B,)
    assert 0 < small.sum() < len(TEXTS)
    head = next(iter(soft.logits))
    moved = np.abs(soft.logits[head] - pruned.logits[head]).max(1)  # (B,)
    assert moved[~small].max() < 1e-4
    assert moved[small].max() > 1e-2
    np.testing.assert_array_equal(soft.routing_weights, pruned.routing_weights)
    off = predictor_of(model, "pruned", prune=0.0).score(TEXTS)
    np.testing.assert_array_equal(off.logits[head], soft.logits[head])


def test_pinned_texts_run_on_folded_weights_once_there_are_enough(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_predictor, "FOLD_TOKENS", 500)
    work = make_work()
    model = sharpen(random_mixture(load_backbone(work.run.backbone), work, shared=True), 1.0)
    predictor = predictor_of(model, "soft")
    pins: list[str | None] = ["forum"] * len(TEXTS)
    before = predictor.score(TEXTS, pins)
    assert model.bank.folded.kept == ()
    after = predictor.score(TEXTS, pins)
    assert model.bank.folded.kept == (("forum", "shared"),)
    assert_close(before, after)
    assert_close(after, one_by_one(predictor, TEXTS, pins))
    mixed: list[str | None] = [(None, "news", "forum")[i % 3] for i in range(len(TEXTS))]
    assert_close(predictor.score(TEXTS, mixed), one_by_one(predictor, TEXTS, mixed))


def test_unfamiliar_texts_are_answered_by_the_shared_expert_alone_when_pruned(make_work: Make) -> None:
    work = make_work(gate={"init": "centroid"})
    model = random_mixture(load_backbone(work.run.backbone), work, gate="soft", shared=True)
    assert model.gate is not None
    width = model.backbone.config.hidden_size
    model.gate.prior = RouterPrior(width, 2, "centroid")
    assert model.gate.prior.prototypes is not None
    with torch.no_grad():
        model.gate.prior.prototypes.spread_weight.normal_()
        model.gate.prior.prototypes.threshold.fill_(float(width))
    predictor = predictor_of(model, "pruned")
    scores, alone = predictor.score(TEXTS), one_by_one(predictor, TEXTS)
    assert_close(scores, alone)
    assert scores.unfamiliar is not None
    assert 0 < scores.unfamiliar.sum() < len(TEXTS)


def test_quantized_weights_are_not_folded(make_work: Make) -> None:
    pytest.importorskip("bitsandbytes")
    work = make_work(backbone={"quantization": "nf4"})
    model = sharpen(random_mixture(load_backbone(work.run.backbone), work, experts=2), 1.0)
    predictor = predictor_of(model, "hard")
    assert_close(predictor.score(TEXTS), one_by_one(predictor, TEXTS), tolerance=0.05)
    with model.single_expert("news"):
        assert model.bank.folded.kept == ()
