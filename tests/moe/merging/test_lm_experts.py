"""Claims about a mixture over a language model: routed texts and tokens, packed documents, generation with a cache."""

from pathlib import Path

import pytest
import torch
from conftest import DECODERS
from corpora import save_model
from mixtures import team
from torch import Tensor
from transformers import DynamicCache

from moe.model.mixture import Mixture
from moe.model.packing import find_packing_mode

NEW = 6


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random decoder of two families."""
    return save_model(tmp_path_factory.mktemp(request.param), request.param)


def prompts() -> tuple[Tensor, Tensor]:
    """Two prompts, the shorter padded on the left."""
    ids = torch.randint(4, 99, (2, 5), generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[1] * 5, [0] * 2 + [1] * 3])
    return ids * mask, mask


def scores(model: Mixture, states: Tensor) -> Tensor:
    """Scores (B, V) of the token after the last state."""
    assert model.loaded_backbone.lm_head is not None
    return model.loaded_backbone.lm_head.logits(states[:, -1])


@torch.no_grad()
def without_cache(model: Mixture, prompt: Tensor) -> list[Tensor]:
    """Greedy tokens of one prompt (T,), the whole text run anew for each: scores (V,) of every step."""
    ids, found = prompt[None], []
    read = torch.ones_like(ids)
    for _ in range(NEW):
        grown = torch.nn.functional.pad(read, (0, ids.shape[1] - read.shape[1]))
        out = model(ids, torch.ones_like(ids), router_mask=grown)
        found.append(scores(model, out.pooled)[0])
        ids = torch.cat([ids, found[-1].argmax().view(1, 1)], 1)
    return found


@torch.no_grad()
def with_cache(model: Mixture, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """The same of several left-padded prompts (B, T) at once, each token run once: scores (B, V) of every step."""
    assert model.loaded_backbone.lm_head is not None
    whole, found = model.loaded_backbone.lm_head.model, []
    cache = DynamicCache()
    with model.generation(mask.bool()):
        for _ in range(NEW):
            past = cache.get_seq_length()
            places = (mask.cumsum(1) - 1).clamp(min=0)[:, past:]
            out = whole(ids[:, past:], attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True)
            found.append(out.logits[:, -1])
            ids = torch.cat([ids, found[-1].argmax(-1, keepdim=True)], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return found


@pytest.mark.parametrize("unit", ["text", "token"])
@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
def test_cached_generation_of_a_padded_batch_equals_uncached_of_each_prompt(
    decoder: Path, kind: str, unit: str
) -> None:
    model = team(decoder, kind, unit)
    ids, mask = prompts()
    cached = with_cache(model, ids, mask)
    for row in range(2):
        expected = without_cache(model, ids[row][mask[row].bool()])
        for step in range(NEW):
            torch.testing.assert_close(cached[step][row], expected[step], atol=1e-4, rtol=1e-4)


def test_a_texts_gates_are_made_once_on_its_prompt_and_a_tokens_with_each(decoder: Path) -> None:
    ids, mask = prompts()
    for unit, shape in (("text", (2, 3)), ("token", (2, 5 + NEW - 1, 3))):
        model = team(decoder, "team", unit)
        whole = model.loaded_backbone.lm_head.model  # type: ignore[union-attr]
        with torch.no_grad(), model.generation(mask.bool()) as said:
            whole.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
            assert said().shape == shape
            torch.testing.assert_close(said().sum(-1), torch.ones(shape[:-1]))


def test_beams_of_a_text_share_its_gates(decoder: Path) -> None:
    model, (ids, mask) = team(decoder, "soft"), prompts()
    whole = model.loaded_backbone.lm_head.model  # type: ignore[union-attr]
    with torch.no_grad(), model.generation(mask.bool()) as said:
        whole.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, num_beams=2, do_sample=False)
        beams = said()
    with torch.no_grad():
        one_by_one = [
            model(i[m.bool()][None], m[m.bool()][None]).routing.probs[0] for i, m in zip(ids, mask, strict=True)
        ]
    torch.testing.assert_close(beams, torch.stack(one_by_one).repeat_interleave(2, 0))


@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
@pytest.mark.parametrize("trunk_depth", [0, 1])
def test_a_later_token_does_not_change_an_earlier_tokens_gate(decoder: Path, kind: str, trunk_depth: int) -> None:
    model, (ids, _) = team(decoder, kind, "token", trunk_depth), prompts()
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 7) % 99
    with torch.no_grad():
        first, second = (model(one, torch.ones_like(one)).routing for one in (ids, other))
    torch.testing.assert_close(first.gates[:, :-1], second.gates[:, :-1])
    assert not torch.allclose(first.probs[:, -1], second.probs[:, -1])


@pytest.mark.parametrize("family_name", DECODERS)
def test_packed_documents_do_not_see_each_other_through_an_expert(family_name: str, tmp_path: Path) -> None:
    model = team(save_model(tmp_path / "b", family_name))
    model.active_expert = "calls"
    lengths, way = (4, 5, 3), find_packing_mode(model.backbone)
    assert way is not None
    ids = torch.randint(4, 99, (1, sum(lengths)), generator=torch.Generator().manual_seed(1))
    places = torch.cat([torch.arange(one) for one in lengths])[None]
    with torch.no_grad():
        packed = model(ids, **way.inputs(places, torch.float32)).pooled[0]
        apart = [model(one[None], torch.ones_like(one[None])).pooled[0] for one in ids[0].split(lengths)]
    torch.testing.assert_close(packed, torch.cat(apart), atol=1e-5, rtol=1e-5)


def test_an_answer_is_never_read_by_the_router(decoder: Path) -> None:
    model, (ids, _) = team(decoder), prompts()
    other, read = ids.clone(), torch.tensor([[1, 1, 1, 0, 0]] * 2)
    other[:, 3:] = 50
    with torch.no_grad():
        first, second = (model(one, torch.ones_like(one), router_mask=read).routing for one in (ids, other))
    assert torch.equal(first.gates, second.gates)


def test_pinned_domains_hold_the_tokens_of_a_text(decoder: Path) -> None:
    model, (ids, _) = team(decoder, "soft", "token"), prompts()
    allowed = torch.tensor([[True, False, False], [False, True, True]])
    with torch.no_grad():
        gates = model(ids, torch.ones_like(ids), allowed=allowed).routing.gates  # (B, T, E)
    assert gates[0, :, 1:].count_nonzero() == 0
    assert gates[1, :, 0].count_nonzero() == 0
