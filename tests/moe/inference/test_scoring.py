"""Claims about likelihoods: sums over an answer's tokens as one forward pass gives them, whatever the batch."""

from pathlib import Path

import pytest
import torch
from conftest import DECODERS
from corpora import save_language_model
from mixtures import lm_head, random_lm_mixture

from moe.inference import scoring
from moe.inference.scoring import likelihoods
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode

PAIRS = [
    ([1, 5, 9], [7, 8]),
    ([1, 4], [6]),
    ([1, 9, 9, 9, 9, 9], [10, 11, 12]),
    ([1, 3], []),
    ([1, 5, 9], [7, 9, 4]),
    ([1, 3], [5]),
    ([1, 5, 9], [12]),
]


@pytest.fixture(scope="module", params=["text", "token"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """A mixture of random experts over a decoder of two layers."""
    return random_lm_mixture(save_language_model(tmp_path_factory.mktemp("llama"), "llama"), unit=request.param).eval()


@torch.no_grad()
def score_single_pair(model: Mixture, prompt: list[int], answer: list[int]) -> tuple[float, bool]:
    """Σ log p of an answer, and whether it is greedy, from one forward pass."""
    ids = torch.tensor([[*prompt, *answer]])
    prompt_mask = torch.tensor([[1] * len(prompt) + [0] * len(answer)])
    states = model(ids, torch.ones_like(ids), router_mask=prompt_mask).pooled[0]
    log_p = lm_head(model).logits(states).log_softmax(-1)
    positions = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    values = [float(log_p[position, token]) for position, token in zip(positions, answer, strict=True)]
    greedy = [int(log_p[position].argmax()) == token for position, token in zip(positions, answer, strict=True)]
    return sum(values), all(greedy)


def test_likelihoods_of_a_batch_equal_those_of_single_pairs(model: Mixture) -> None:
    for likelihood, (prompt, answer) in zip(likelihoods(model, PAIRS), PAIRS, strict=True):
        total, greedy = score_single_pair(model, prompt, answer)
        assert likelihood.total == pytest.approx(total, abs=1e-4)
        assert likelihood.greedy is greedy
        assert likelihood.tokens == len(answer)
        assert likelihood.mean == pytest.approx(total / max(1, len(answer)), abs=1e-4)


def test_most_probable_next_token_is_greedy(model: Mixture) -> None:
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        states = model(ids, torch.ones_like(ids)).pooled[0, -1:]
        best = int(lm_head(model).logits(states).argmax())
    (likelihood,) = likelihoods(model, [([1, 5, 9], [best])])
    assert likelihood.greedy


def test_pairs_can_be_pinned_to_a_domain(model: Mixture) -> None:
    free, macro, calls = (likelihoods(model, PAIRS[:1], pins)[0].total for pins in (None, ["macro"], ["calls"]))
    assert len({round(total, 6) for total in (free, macro, calls)}) == 3
    mode = RoutingMode(without=("calls", "filings"))
    assert likelihoods(model, PAIRS[:1], mode=mode)[0].total == pytest.approx(macro, abs=1e-5)


def test_model_without_experts_equals_the_backbone(model: Mixture) -> None:
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        ours = model(ids, torch.ones_like(ids), mode=RoutingMode(without=tuple(model.bank.adapters))).pooled
        model.bank.set_gates(None, disabled=model.bank.shared_experts)
        assert len(model.backbone.layers) == 2  # run by the backbone's own forward below, without the trunk's hook
        hook = model.trunk.next._forward_pre_hooks.popitem()
        bare = model.backbone(input_ids=ids).last_hidden_state
        model.trunk.next._forward_pre_hooks[hook[0]] = hook[1]
    torch.testing.assert_close(ours, bare)


@pytest.mark.parametrize("family", DECODERS)
def test_answers_of_one_prompt_share_a_row_in_every_family_that_can_pack(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_lm_mixture(save_language_model(tmp_path / family, family)).eval()
    rows: list[int] = []
    original = scoring._score_batch
    monkeypatch.setattr(
        scoring, "_score_batch", lambda m, trees, *rest: rows.append(len(trees)) or original(m, trees, *rest)
    )
    packed = likelihoods(model, PAIRS)
    assert sum(rows) == 4, "as many rows as prompts"
    for likelihood, (prompt, answer) in zip(packed, PAIRS, strict=True):
        assert likelihood.total == pytest.approx(score_single_pair(model, prompt, answer)[0], abs=1e-4)


def test_answers_are_scored_one_by_one_if_the_backbone_cannot_pack(
    model: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = likelihoods(model, PAIRS)
    monkeypatch.setattr(scoring, "find_packing_mode", lambda *_, **__: None)
    for likelihood, expected in zip(likelihoods(model, PAIRS), packed, strict=True):
        assert likelihood.total == pytest.approx(expected.total, abs=1e-4)
        assert (likelihood.tokens, likelihood.greedy) == (expected.tokens, expected.greedy)
