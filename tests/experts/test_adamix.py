"""Tests of AdaMix: which copy of B a pass uses, which copies learn, and that their average replaces them."""

import pytest
import torch
from conftest import family_params, tiny_backbone
from torch import Tensor

from experts.adapter import build_adapter
from experts.adapter_bank import ExpertBank
from experts.lora import LoraSettings

IDS = torch.randint(3, 99, (4, 6), generator=torch.Generator().manual_seed(1))  # (B, T)
COPIES = 3


def make_bank(family: str = "bert") -> ExpertBank:
    """A bank with two random experts."""
    bank = ExpertBank(tiny_backbone(family))
    torch.manual_seed(0)
    for name in ("a", "b"):
        settings = LoraSettings(r=2, alpha=4, dropout=0.0)
        bank.add_adapter(name, build_adapter(bank.layer_map, settings, trunk_depth=0))
        randomize(bank, name)
    bank.set_adapter("a")
    return bank


@torch.no_grad()
def randomize(bank: ExpertBank, name: str) -> None:
    for key, parameter in bank.adapter_parameters(name).items():
        if ".lora_B" in key:
            parameter.normal_(std=0.3)


def states(bank: ExpertBank, ids: Tensor = IDS) -> Tensor:
    hidden: Tensor = bank.backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return hidden


def set_draws(bank: ExpertBank, *draws: float) -> None:
    for layer in bank.gated_layers:
        layer.copies_of_b.draws = draws


def use_copy(bank: ExpertBank, index: int) -> None:
    """Set B of expert `a` to one of its copies, for passes outside of training."""
    with torch.no_grad():
        for layer in bank.gated_layers:
            layer.lora_B["a"].copy_(list(layer.copies_of_b.copies["a"].parameters())[index])


def test_training_pass_uses_the_copy_that_was_drawn(family: str) -> None:
    bank = make_bank(family)
    with bank.adamix({"a": COPIES}), torch.no_grad():
        randomize(bank, "a")
        for index in range(COPIES):
            set_draws(bank, (index + 0.5) / COPIES)
            bank.train(True)
            drawn = states(bank)
            bank.train(False)
            use_copy(bank, index)
            torch.testing.assert_close(drawn, states(bank), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", family_params("bert", "gpt2", "llama"))
def test_two_draws_are_those_of_the_halves_of_the_rows(family: str) -> None:
    if family.startswith("deberta"):
        pytest.skip("its positions use the first draw in both halves")
    bank = make_bank(family)
    with bank.adamix({"a": COPIES}), torch.no_grad():
        randomize(bank, "a")
        bank.train(True)
        set_draws(bank, 0.0, 0.99)
        both = states(bank)
        for draw, rows in ((0.0, slice(0, 2)), (0.99, slice(2, 4))):
            set_draws(bank, draw)
            torch.testing.assert_close(both[rows], states(bank, IDS[rows]), atol=1e-5, rtol=1e-4)


def test_only_drawn_copies_get_gradients_and_all_train_the_same_a() -> None:
    bank = make_bank()
    with bank.adamix({"a": COPIES, "b": 1}):
        bank.train_only("a")
        bank.train(True)
        set_draws(bank, 0.5)
        states(bank)[:, 0].sum().backward()
        parameters = bank.adapter_parameters("a")
        learns = {key.split(".lora_")[1] for key, p in parameters.items() if p.grad is not None}
        assert learns == {"A.weight", "B.1.weight"}
        assert all(p.requires_grad for p in parameters.values())
        assert not any(layer.lora_B["a"].requires_grad for layer in bank.gated_layers)


def test_average_replaces_the_copies_under_the_keys_and_shapes_of_any_expert() -> None:
    bank = make_bank()
    before = {key: tensor.detach().clone() for key, tensor in bank.adapter_parameters("a").items()}
    other = {key: tensor.detach().clone() for key, tensor in bank.adapter_parameters("b").items()}
    with bank.adamix({"a": COPIES}):
        key = next(key for key in before if ".lora_B" in key)
        copies = [p for name, p in bank.adapter_parameters("a").items() if name.startswith(key.removesuffix("weight"))]
        assert len(copies) == COPIES
        assert all(torch.equal(copy, before[key]) for copy in copies), "they start from the trained B"
        randomize(bank, "a")
        expected = torch.stack(copies).mean(0)
        bank.average_copies()
        evaluated = states(bank)
    after = bank.adapter_parameters("a")
    assert {name: tensor.shape for name, tensor in after.items()} == {name: b.shape for name, b in before.items()}
    torch.testing.assert_close(after[key], expected)
    assert torch.equal(states(bank), evaluated)
    assert all(torch.equal(tensor, other[name]) for name, tensor in bank.adapter_parameters("b").items())


def test_draws_depend_only_on_seed_and_step_and_differ_by_layer_and_pass() -> None:
    bank = make_bank()

    def drawn(seed: int, step: int) -> list[tuple[float, ...]]:
        bank.draw_copies(seed, step, passes=2)
        return [layer.copies_of_b.draws for layer in bank.gated_layers]

    with bank.adamix({"a": COPIES}):
        first = drawn(7, 3)
        torch.manual_seed(1)
        state = torch.get_rng_state()
        assert drawn(7, 3) == first
        assert torch.equal(torch.get_rng_state(), state), "no random number of training is used"
        assert drawn(7, 4) != first
        assert drawn(8, 3) != first
        assert len({number for layer in first for number in layer}) == 2 * len(bank.gated_layers)
