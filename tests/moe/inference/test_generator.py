"""Claims about generation: batches equal single prompts and no cache, gates are told, faults are sentences."""

from pathlib import Path

import pytest
import torch
from conftest import save_backbone
from corpora import save_model
from mixtures import team

from experts.errors import Fault
from moe.inference.generator import Generator, Sampling
from moe.model.mixture import Mixture

PROMPTS = ["profit rose today", "moon", "the bank kept sales with orders again"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random decoder."""
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def endless(model: Mixture) -> Mixture:
    """Without an end of text, so that answers have all their tokens."""
    model.loaded_backbone.tokenizer.eos_token = None
    model.loaded_backbone.lm_head.model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    return model


@torch.no_grad()
def slowly(generator: Generator, ids: list[int], count: int) -> str:
    """Greedy tokens of one prompt, the whole of it run anew for each."""
    model, start = generator.model, len(ids)
    for _ in range(count):
        row = torch.tensor([ids])
        read = torch.tensor([[1] * start + [0] * (len(ids) - start)])
        out = model(row, torch.ones_like(row), router_mask=read)
        ids = [*ids, int(model.loaded_backbone.lm_head.logits(out.pooled[:, -1]).argmax())]  # type: ignore[union-attr]
    return generator.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("shared", [False, True], ids=["routed alone", "over a shared one"])
@pytest.mark.parametrize(("kind", "unit"), [("soft", "text"), ("team", "text"), ("soft", "token"), ("hard", "token")])
def test_a_batch_is_answered_as_each_prompt_is_without_a_cache(
    folder: Path, kind: str, unit: str, shared: bool
) -> None:
    generator = Generator(endless(team(folder, kind, unit, shared=shared)), sampling=Sampling(max_new_tokens=7))
    prompts = [generator.encode(prompt) for prompt in PROMPTS]
    written = generator.generate(prompts)
    assert [one.text for one in written] == [slowly(generator, ids, 7) for ids in prompts]
    for one in written:
        assert one.shares is not None
        assert list(one.shares) == ["macro", "calls", "filings"]
        assert sum(one.shares.values()) == pytest.approx(1.0)


def test_shares_are_those_of_the_prompt_whatever_the_batch(folder: Path) -> None:
    generator = Generator(endless(team(folder)), sampling=Sampling(max_new_tokens=3))
    prompts = [generator.encode(prompt) for prompt in PROMPTS]
    together, apart = generator.generate(prompts), [generator.generate([ids])[0] for ids in prompts]
    for one, other in zip(together, apart, strict=True):
        assert one.shares == pytest.approx(other.shares, abs=1e-5)
        assert one.text == other.text


def test_a_pinned_domains_experts_alone_answer(folder: Path) -> None:
    generator = Generator(team(folder), sampling=Sampling(max_new_tokens=2))
    (one,) = generator.generate([generator.encode(PROMPTS[0])], pin="calls")
    alone = team(folder)
    alone.active_expert = "calls"
    other = Generator(alone, sampling=Sampling(max_new_tokens=2))
    (expected,) = other.write([other.tokens(PROMPTS[0])])
    assert one.text == expected.text
    assert expected.shares is None
    with pytest.raises(Fault, match="one of the domains macro, calls, filings"):
        generator.generate([generator.encode(PROMPTS[0])], pin="news")


def test_drawn_answers_vary_by_seed_alone(folder: Path) -> None:
    def drawn(seed: int) -> str:
        generator = Generator(endless(team(folder)), sampling=Sampling(12, temperature=2.0, seed=seed))
        return generator.generate([generator.encode(PROMPTS[0])])[0].text

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_chat_template_is_used_where_there_is_one(folder: Path) -> None:
    model = team(folder)
    few = Sampling(max_new_tokens=8)
    plain = Generator(model, sampling=few).tokens("profit")
    with pytest.raises(Fault, match="chat template"):
        Generator(model, sampling=few, chat=True)
    model.loaded_backbone.tokenizer.chat_template = "{% for m in messages %}the {{ m.content }} again{% endfor %}"
    told = Generator(model, sampling=few)
    words = model.loaded_backbone.tokenizer.convert_ids_to_tokens
    assert words(told.tokens("profit")) == ["the", "profit", "again"]
    assert Generator(model, sampling=few, chat=False).tokens("profit") == plain


def test_a_prompt_without_room_for_its_answer_is_a_sentence(folder: Path) -> None:
    generator = Generator(team(folder), sampling=Sampling(max_new_tokens=60))
    with pytest.raises(Fault, match=r"at most 4 tokens, with 60 for the answer in a context of 64.*found 8 tokens"):
        generator.encode("profit rose today again and of")


@pytest.mark.parametrize("wrong", [{"new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_numbers_that_choose_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(Fault, match="Mend it"):
        Sampling(**wrong).check()  # type: ignore[arg-type]


def test_a_model_that_cannot_write_is_refused(tmp_path: Path) -> None:
    from moe.model.backbone import BackboneSettings, load_backbone

    model = team(save_model(tmp_path / "b", "gpt2"))
    model.loaded_backbone = load_backbone(BackboneSettings(name=str(save_backbone(tmp_path / "plain"))))
    with pytest.raises(Fault, match="causal language model"):
        Generator(model)
