"""Claims about folded weights: the same outputs as adapters beside the weights, kept and deleted as the limit says."""

from collections.abc import Sequence

import pytest
import torch
from conftest import family_params, tiny_backbone
from torch import Tensor

from experts.adapter import build_adapter
from experts.adapter_bank import ExpertBank
from experts.lora import LoraSettings


def bank_of(names: Sequence[str], family: str = "bert", limit: int = 2**30, shared: bool = False) -> ExpertBank:
    """Return a bank of random experts, and with `shared` one more that is always on."""
    bank = ExpertBank(tiny_backbone(family), fold_limit=limit)
    for name in (*names, *(("shared",) if shared else ())):
        adapter = build_adapter(bank.layer_map, LoraSettings(r=3, alpha=5, dropout=0.0), 0)
        bank.add_adapter(name, adapter, always_on=name == "shared")
        with torch.no_grad():
            for parameter in bank.adapter_parameters(name).values():
                parameter.normal_(std=0.3)
    return bank


def states(bank: ExpertBank, name: str) -> Tensor:
    """Return the backbone's states (B, T, D) with one expert for every text."""
    bank.set_adapter(name)
    ids = torch.arange(3, 27).reshape(3, 8)  # (B, T)
    with torch.inference_mode():
        hidden: Tensor = bank.backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return hidden


def size_of_copy(bank: ExpertBank) -> int:
    """Return the bytes of the adapted weights."""
    return sum(layer.weight.nbytes for layer in bank.gated_layers)


@pytest.mark.parametrize("family", family_params("bert", "gpt2", "llama"))
def test_folded_weights_give_the_same_states_with_the_shared_expert_folded_too(family: str) -> None:
    bank = bank_of(["a", "b"], family, shared=True)
    expected = {name: states(bank, name) for name in ("a", "b", "shared")}
    assert bank.route.merged is None, "outside the context, no pass uses a copy"
    for name, beside in expected.items():
        with bank.merged_adapter(name):
            torch.testing.assert_close(states(bank, name), beside, atol=1e-4, rtol=1e-4)  # fp32, sums in another order
            assert bank.route.merged == bank.constant_route(name)
    assert len(bank.folded.kept) == 3
    assert not torch.allclose(expected["a"], expected["shared"])


def test_least_recently_used_copy_is_deleted_first_and_a_kept_one_is_used_again() -> None:
    bank = bank_of(["a", "b", "c"])
    bank.folded.limit = 2 * size_of_copy(bank)
    for name in ("a", "b", "a", "c"):
        with bank.merged_adapter(name):
            pass
    assert bank.folded.kept == (("a",), ("c",))
    assert [set(layer.merged_weights) for layer in bank.gated_layers] == [{("a",), ("c",)}] * len(bank.gated_layers)
    copies = [layer.merged_weights["a",] for layer in bank.gated_layers]
    with bank.merged_adapter("a"):
        pass
    assert all(layer.merged_weights["a",] is copy for layer, copy in zip(bank.gated_layers, copies, strict=True))


def test_copy_that_exceeds_the_limit_is_not_made_and_deletes_no_other() -> None:
    bank = bank_of(["a", "b"])
    with bank.merged_adapter("a"):
        pass
    bank.folded.limit = size_of_copy(bank) - 1
    beside = states(bank, "b")
    assert not bank.folded.has_room(("b",))
    with bank.merged_adapter("b"):
        torch.testing.assert_close(states(bank, "b"), beside, atol=0, rtol=0)
    assert bank.folded.kept == (("a",),)


def test_copy_in_use_is_not_deleted_for_another() -> None:
    bank = bank_of(["a", "b"])
    bank.folded.limit = size_of_copy(bank)
    with bank.merged_adapter("a"), bank.merged_adapter("b"):
        assert bank.folded.kept == (("a",),)


def test_copy_of_a_changed_expert_is_made_again() -> None:
    bank = bank_of(["a", "b"])
    with bank.merged_adapter("a"):
        before = states(bank, "a")
    with torch.no_grad():
        for parameter in bank.adapter_parameters("a").values():
            parameter.mul_(2.0)
    assert not bank.folded.is_current(("a",))
    expected = states(bank, "a")
    with bank.merged_adapter("a"):
        torch.testing.assert_close(states(bank, "a"), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, expected)


def test_training_deletes_all_copies() -> None:
    bank = bank_of(["a"])
    with bank.merged_adapter("a"):
        pass
    bank.train()
    assert bank.folded.kept == ()
    assert not any(layer.merged_weights for layer in bank.gated_layers)


def test_copy_made_in_inference_mode_serves_passes_with_gradients() -> None:
    bank = bank_of(["a"])
    with torch.inference_mode(), bank.merged_adapter("a"):
        pass
    embedded = torch.randn(1, 4, bank.backbone.config.hidden_size, requires_grad=True)  # (B, T, D)
    with bank.merged_adapter("a"):
        bank.set_adapter("a")
        bank.backbone(inputs_embeds=embedded).last_hidden_state.sum().backward()
    assert embedded.grad is not None
