"""Claims about generation: batches equal single prompts without a cache, routing weights are reported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_backbone
from corpora import save_language_model
from mixtures import lm_head, random_lm_mixture

from experts.errors import Fault
from moe.inference.generator import Generator, Sampling
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode

PROMPTS = ["profit rose today", "moon", "the bank kept sales with orders again"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random decoder of two layers."""
    return save_language_model(tmp_path_factory.mktemp("llama"), "llama")


def without_end_of_text(model: Mixture) -> Mixture:
    """The model without an end of text, so that answers have `max_new_tokens` tokens."""
    model.loaded_backbone.tokenizer.eos_token = None
    lm_head(model).model.generation_config.eos_token_id = None
    return model


@torch.no_grad()
def generate_without_cache(generator: Generator, ids: list[int], count: int) -> str:
    """Greedy tokens of one prompt, with a full forward pass for each."""
    model, start = generator.model, len(ids)
    for _ in range(count):
        row = torch.tensor([ids])
        prompt_mask = torch.tensor([[1] * start + [0] * (len(ids) - start)])
        out = model(row, torch.ones_like(row), router_mask=prompt_mask)
        ids = [*ids, int(lm_head(model).logits(out.pooled[:, -1]).argmax())]
    return generator.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("shared", [False, True], ids=["routed experts", "with a shared expert"])
@pytest.mark.parametrize(("kind", "unit"), [("soft", "text"), ("team", "text"), ("soft", "token"), ("hard", "token")])
def test_batched_answers_equal_those_of_single_prompts_without_a_cache(
    folder: Path, kind: str, unit: str, shared: bool
) -> None:
    model = without_end_of_text(random_lm_mixture(folder, kind, unit, shared=shared))
    generator = Generator(model, sampling=Sampling(max_new_tokens=7))
    prompts = [generator.encode(prompt) for prompt in PROMPTS]
    answers = generator.generate(prompts)
    assert [answer.text for answer in answers] == [generate_without_cache(generator, ids, 7) for ids in prompts]
    for answer in answers:
        assert answer.routing_weights is not None
        assert list(answer.routing_weights) == ["macro", "calls", "filings"]
        assert sum(answer.routing_weights.values()) == pytest.approx(1.0)


def test_routing_weights_do_not_depend_on_the_batch(folder: Path) -> None:
    generator = Generator(without_end_of_text(random_lm_mixture(folder)), sampling=Sampling(max_new_tokens=3))
    prompts = [generator.encode(prompt) for prompt in PROMPTS]
    batched, single = generator.generate(prompts), [generator.generate([ids])[0] for ids in prompts]
    for answer, expected in zip(batched, single, strict=True):
        assert answer.routing_weights == pytest.approx(expected.routing_weights, abs=1e-5)
        assert answer.text == expected.text


def test_pinned_domain_uses_its_experts_only(folder: Path) -> None:
    generator = Generator(random_lm_mixture(folder), sampling=Sampling(max_new_tokens=2))
    (answer,) = generator.generate([generator.encode(PROMPTS[0])], pin="calls")
    single_expert = random_lm_mixture(folder)
    single_expert.mode = RoutingMode(active_expert="calls")
    expert_generator = Generator(single_expert, sampling=Sampling(max_new_tokens=2))
    (expected,) = expert_generator.generate([expert_generator.encode(PROMPTS[0])])
    assert answer.text == expected.text
    assert expected.routing_weights is None
    with pytest.raises(Fault, match="one of the domains macro, calls, filings"):
        generator.generate([generator.encode(PROMPTS[0])], pin="news")


def test_sampled_answers_vary_with_the_seed_only(folder: Path) -> None:
    def sample(seed: int) -> str:
        sampling = Sampling(max_new_tokens=12, temperature=2.0, seed=seed)
        generator = Generator(without_end_of_text(random_lm_mixture(folder)), sampling=sampling)
        return generator.generate([generator.encode(PROMPTS[0])])[0].text

    assert sample(1) == sample(1) != sample(2)


def test_chat_template_is_used_if_there_is_one(folder: Path) -> None:
    model = random_lm_mixture(folder)
    sampling = Sampling(max_new_tokens=8)
    plain = Generator(model, sampling=sampling).encode("profit")
    with pytest.raises(Fault, match="chat template"):
        Generator(model, sampling=sampling, chat=True)
    model.loaded_backbone.tokenizer.chat_template = "{% for m in messages %}the {{ m.content }} again{% endfor %}"
    generator = Generator(model, sampling=sampling)
    to_words = model.loaded_backbone.tokenizer.convert_ids_to_tokens
    assert to_words(generator.encode("profit")) == ["the", "profit", "again"]
    assert Generator(model, sampling=sampling, chat=False).encode("profit") == plain


def test_prompt_without_room_for_its_answer_is_refused(folder: Path) -> None:
    generator = Generator(random_lm_mixture(folder), sampling=Sampling(max_new_tokens=60))
    with pytest.raises(Fault, match=r"at most 4 tokens, with 60 for the answer in a context of 64.*found 8 tokens"):
        generator.encode("profit rose today again and of")


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Fault, match="Set a value in this range"):
        Sampling(**wrong).check()


def test_model_that_is_no_causal_language_model_is_refused(tmp_path: Path) -> None:
    from moe.model.backbone import BackboneSettings, load_backbone

    model = random_lm_mixture(save_language_model(tmp_path / "b", "gpt2"))
    model.loaded_backbone = load_backbone(BackboneSettings(name=str(save_backbone(tmp_path / "plain"))))
    with pytest.raises(Fault, match="causal language model"):
        Generator(model)
