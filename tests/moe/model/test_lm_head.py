"""Tests of the language-model head: logits and losses equal those of transformers in every model family."""

from pathlib import Path

import pytest
import torch
from conftest import DECODERS, FAMILIES, tiny_backbone, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from experts.errors import Fault
from moe.model import lm_head
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.lm_head import IGNORE_INDEX, LMHead, lm_kind, next_token_labels


def full_model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=99, **FAMILIES[family])
    kind = AutoModelForCausalLM if family in DECODERS else AutoModelForMaskedLM
    return kind.from_config(config).eval()


def ids_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 99, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    return ids * mask, mask


def test_lm_kind_is_masked_for_encoders_and_causal_for_decoders(family: str) -> None:
    assert lm_kind(tiny_backbone(family).config) == ("causal" if family in DECODERS else "masked")


def test_lm_head_logits_of_given_states_equal_those_of_the_full_model(family: str) -> None:
    model, (ids, mask) = full_model(family), ids_and_mask()
    head = LMHead(model)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits  # (B, T, V)
        states = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
        torch.testing.assert_close(head.logits(states.flatten(0, 1)), expected.flatten(0, 1))
        again = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("family_name", ["gpt2", "llama"])
def test_token_losses_equal_the_transformers_loss_in_value_and_gradient(
    family_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_head, "CHUNK_TOKENS", 4)
    model, (ids, mask) = full_model(family_name), ids_and_mask()
    states = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state.detach()
    mine, theirs = states.clone().requires_grad_(), states.clone().requires_grad_()
    labels = next_token_labels(ids, mask)
    LMHead(model).token_losses(mine, labels).mean().backward()
    logits = model.get_output_embeddings()(theirs)  # (B, T, V)
    model.loss_function(logits, ids.masked_fill(mask == 0, IGNORE_INDEX), vocab_size=99).backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_next_token_labels_are_the_next_tokens_where_the_mask_is_set() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    assert next_token_labels(ids, torch.tensor([[1, 1, 1, 1]])).tolist() == [[6, 7, 8, IGNORE_INDEX]]
    assert next_token_labels(ids, torch.tensor([[0, 0, 1, 0]])).tolist() == [
        [IGNORE_INDEX, 7, IGNORE_INDEX, IGNORE_INDEX]
    ]


def test_token_losses_are_in_the_order_of_the_batch() -> None:
    model, (ids, mask) = full_model("gpt2"), ids_and_mask()
    head, labels = LMHead(model), next_token_labels(ids, mask)
    with torch.no_grad():
        states = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        losses = head.token_losses(states, labels)  # (N,)
        by_hand = -model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)  # (B, T, V)
    assert len(losses) == 6 + 4
    torch.testing.assert_close(losses[0], by_hand[0, 0, ids[0, 1]])
    torch.testing.assert_close(losses[-1], by_hand[1, 3, ids[1, 4]])


@pytest.mark.parametrize("family_name", ["gpt2", "bert"])
def test_load_backbone_loads_its_own_lm_head(tmp_path: Path, family_name: str) -> None:
    model, (ids, mask) = full_model(family_name), ids_and_mask()
    model.save_pretrained(tmp_path / "b")
    tiny_tokenizer().save_pretrained(tmp_path / "b")
    loaded = load_backbone(BackboneSettings(name=str(tmp_path / "b"), dtype="float32"), lm_head=True)
    assert loaded.lm_head is not None
    assert type(loaded.model) is type(load_backbone(BackboneSettings(name=str(tmp_path / "b"))).model)
    with torch.no_grad():
        states = loaded.model(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(loaded.lm_head.logits(states.flatten(0, 1)), expected.flatten(0, 1))
    assert not any(parameter.requires_grad for parameter in loaded.lm_head.model.parameters())


def test_load_backbone_refuses_a_missing_lm_head() -> None:
    with pytest.raises(Fault, match=r"language-model head of 'default'.*missing.*saved with its head"):
        load_backbone(BackboneSettings(), lm_head=True)
