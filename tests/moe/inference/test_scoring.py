"""Claims about `moe.inference.scoring`.

Sums over an answer's tokens as the whole model gives them, whatever the batch.
"""

from pathlib import Path

import pytest
import torch
from conftest import DECODERS
from corpora import save_model
from mixtures import team

from moe.inference import scoring as likelihood
from moe.inference.scoring import likelihoods
from moe.model.mixture import Mixture

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
    """A random team over a two-layer decoder."""
    return team(save_model(tmp_path_factory.mktemp("llama"), "llama"), unit=request.param).eval()


@torch.no_grad()
def slowly(model: Mixture, prompt: list[int], answer: list[int]) -> tuple[float, bool]:
    ids = torch.tensor([[*prompt, *answer]])
    read = torch.tensor([[1] * len(prompt) + [0] * len(answer)])
    states = model(ids, torch.ones_like(ids), router_mask=read).pooled[0]
    scores = model.loaded_backbone.lm_head.logits(states).log_softmax(-1)  # type: ignore[union-attr]
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    each = [float(scores[place, token]) for place, token in zip(places, answer, strict=True)]
    best = [int(scores[place].argmax()) == token for place, token in zip(places, answer, strict=True)]
    return sum(each), all(best)


def test_a_batch_gives_what_each_pair_has_alone(model: Mixture) -> None:
    for found, (prompt, answer) in zip(likelihoods(model, PAIRS), PAIRS, strict=True):
        total, greedy = slowly(model, prompt, answer)
        assert found.total == pytest.approx(total, abs=1e-4)
        assert found.greedy is greedy
        assert found.tokens == len(answer)
        assert found.mean == pytest.approx(total / max(1, len(answer)), abs=1e-4)


def test_the_most_probable_next_token_is_greedy(model: Mixture) -> None:
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        states = model(ids, torch.ones_like(ids)).pooled[0, -1:]
        best = int(model.loaded_backbone.lm_head.logits(states).argmax())  # type: ignore[union-attr]
    (found,) = likelihoods(model, [([1, 5, 9], [best])])
    assert found.greedy


def test_pairs_can_be_pinned_to_a_domain(model: Mixture) -> None:
    free, macro, calls = (likelihoods(model, PAIRS[:1], where)[0].total for where in (None, ["macro"], ["calls"]))
    assert len({round(one, 6) for one in (free, macro, calls)}) == 3
    with model.ablated(("calls", "filings")):
        assert likelihoods(model, PAIRS[:1])[0].total == pytest.approx(macro, abs=1e-5)


def test_without_any_expert_the_backbone_answers_alone(model: Mixture) -> None:
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad(), model.ablated(tuple(model.bank.adapters)):
        ours = model(ids, torch.ones_like(ids)).pooled
        model.bank.set_gates(None)
        plain = model.backbone.layers  # the same layers, run by the backbone's own forward below
        assert len(plain) == 2
        hook = model.trunk.next._forward_pre_hooks.popitem()
        bare = model.backbone(input_ids=ids).last_hidden_state
        model.trunk.next._forward_pre_hooks[hook[0]] = hook[1]
    torch.testing.assert_close(ours, bare)


@pytest.mark.parametrize("family", DECODERS)
def test_answers_behind_one_prompt_are_run_together_in_every_family_that_can(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = team(save_model(tmp_path / family, family)).eval()
    passes: list[int] = []
    plain = likelihood._of
    monkeypatch.setattr(likelihood, "_of", lambda m, trees, *rest: passes.append(len(trees)) or plain(m, trees, *rest))
    together = likelihoods(model, PAIRS)
    assert sum(passes) == 4, "as many rows as prompts"
    for found, (prompt, answer) in zip(together, PAIRS, strict=True):
        assert found.total == pytest.approx(slowly(model, prompt, answer)[0], abs=1e-4)


def test_where_answers_cannot_be_kept_apart_each_is_run_by_itself(
    model: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = likelihoods(model, PAIRS)
    monkeypatch.setattr(likelihood, "find_packing_mode", lambda *_, **__: None)
    for found, one in zip(likelihoods(model, PAIRS), expected, strict=True):
        assert found.total == pytest.approx(one.total, abs=1e-4)
        assert (found.tokens, found.greedy) == (one.tokens, one.greedy)
