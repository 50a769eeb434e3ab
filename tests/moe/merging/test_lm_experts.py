"""Tests of a mixture on a language model: routing of texts and tokens, packed documents, generation with a cache."""

from pathlib import Path

import pytest
import torch
from conftest import DECODERS
from corpora import save_language_model
from mixtures import lm_head, random_lm_mixture
from torch import Tensor
from transformers import DynamicCache

from moe.model.backbone_ops import find_packing_mode
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode

NEW_TOKENS = 6


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer decoder with random weights, of two model families."""
    return save_language_model(tmp_path_factory.mktemp(request.param), request.param)


def prompts() -> tuple[Tensor, Tensor]:
    """Two prompts, the shorter padded on the left."""
    ids = torch.randint(4, 99, (2, 5), generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[1] * 5, [0] * 2 + [1] * 3])
    return ids * mask, mask


def next_logits(model: Mixture, states: Tensor) -> Tensor:
    """Return logits (B, V) of the token after the last state."""
    return lm_head(model).logits(states[:, -1])


@torch.no_grad()
def without_cache(model: Mixture, prompt: Tensor) -> list[Tensor]:
    """Generate greedily from one prompt (T,), running the full text at each step; return logits (V,) of every step."""
    ids, steps = prompt[None], []
    prompt_mask = torch.ones_like(ids)
    for _ in range(NEW_TOKENS):
        router_mask = torch.nn.functional.pad(prompt_mask, (0, ids.shape[1] - prompt_mask.shape[1]))
        out = model(ids, torch.ones_like(ids), router_mask=router_mask)
        steps.append(next_logits(model, out.pooled)[0])
        ids = torch.cat([ids, steps[-1].argmax().view(1, 1)], 1)
    return steps


@torch.no_grad()
def with_cache(model: Mixture, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Generate from left-padded prompts (B, T), running each token once; return logits (B, V) of every step."""
    lm, steps = lm_head(model).model, []
    cache = DynamicCache()
    with model.generation(mask.bool()):
        for _ in range(NEW_TOKENS):
            past = cache.get_seq_length()
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, past:]
            out = lm(ids[:, past:], attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
            steps.append(out.logits[:, -1])
            ids = torch.cat([ids, steps[-1].argmax(-1, keepdim=True)], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return steps


@pytest.mark.parametrize("unit", ["text", "token"])
@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
def test_cached_generation_of_a_padded_batch_equals_uncached_generation(decoder: Path, kind: str, unit: str) -> None:
    model = random_lm_mixture(decoder, kind, unit)
    ids, mask = prompts()
    cached = with_cache(model, ids, mask)
    for row in range(2):
        expected = without_cache(model, ids[row][mask[row].bool()])
        for step in range(NEW_TOKENS):
            torch.testing.assert_close(cached[step][row], expected[step], atol=1e-4, rtol=1e-4)


def test_generation_computes_gates_once_per_text_or_once_per_token(decoder: Path) -> None:
    ids, mask = prompts()
    for unit, shape in (("text", (2, 3)), ("token", (2, 5 + NEW_TOKENS - 1, 3))):
        model = random_lm_mixture(decoder, "team", unit)
        lm = lm_head(model).model
        with torch.no_grad(), model.generation(mask.bool()) as probs:
            lm.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
            )
            assert probs().shape == shape
            torch.testing.assert_close(probs().sum(-1), torch.ones(shape[:-1]))


def test_generation_beams_of_a_text_share_its_gates(decoder: Path) -> None:
    model, (ids, mask) = random_lm_mixture(decoder, "soft"), prompts()
    lm = lm_head(model).model
    with torch.no_grad(), model.generation(mask.bool()) as probs:
        lm.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, num_beams=2, do_sample=False)
        beams = probs()
    with torch.no_grad():
        separate = [
            model(row[real.bool()][None], real[real.bool()][None]).routing.probs[0]
            for row, real in zip(ids, mask, strict=True)
        ]
    torch.testing.assert_close(beams, torch.stack(separate).repeat_interleave(2, 0))


@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
@pytest.mark.parametrize("trunk_depth", [0, 1])
def test_token_gates_do_not_depend_on_later_tokens(decoder: Path, kind: str, trunk_depth: int) -> None:
    model, (ids, _) = random_lm_mixture(decoder, kind, "token", trunk_depth), prompts()
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 7) % 99
    with torch.no_grad():
        first, second = (model(batch, torch.ones_like(batch)).routing for batch in (ids, other))
    torch.testing.assert_close(first.gates[:, :-1], second.gates[:, :-1])
    assert not torch.allclose(first.probs[:, -1], second.probs[:, -1])


@pytest.mark.parametrize("family_name", DECODERS)
def test_packed_documents_stay_independent_with_an_expert(family_name: str, tmp_path: Path) -> None:
    model = random_lm_mixture(save_language_model(tmp_path / "b", family_name))
    model.mode = RoutingMode(active_expert="calls")
    lengths, mode = (4, 5, 3), find_packing_mode(model.backbone)
    assert mode is not None
    ids = torch.randint(4, 99, (1, sum(lengths)), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with torch.no_grad():
        packed = model(ids, **mode.inputs(positions, torch.float32)).pooled[0]
        separate = [model(part[None], torch.ones_like(part[None])).pooled[0] for part in ids[0].split(lengths)]
    torch.testing.assert_close(packed, torch.cat(separate), atol=1e-5, rtol=1e-5)


def test_router_never_reads_the_answer(decoder: Path) -> None:
    model, (ids, _) = random_lm_mixture(decoder), prompts()
    other, mask = ids.clone(), torch.tensor([[1, 1, 1, 0, 0]] * 2)
    other[:, 3:] = 50
    with torch.no_grad():
        first, second = (model(batch, torch.ones_like(batch), router_mask=mask).routing for batch in (ids, other))
    assert torch.equal(first.gates, second.gates)


def test_pinned_experts_restrict_the_gates_of_all_tokens(decoder: Path) -> None:
    model, (ids, _) = random_lm_mixture(decoder, "soft", "token"), prompts()
    allowed = torch.tensor([[True, False, False], [False, True, True]])
    with torch.no_grad():
        gates = model(ids, torch.ones_like(ids), allowed=allowed).routing.gates  # (B, T, E)
    assert gates[0, :, 1:].count_nonzero() == 0
    assert gates[1, :, 0].count_nonzero() == 0
