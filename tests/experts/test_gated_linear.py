"""Tests of `experts.gated_linear`: fused products, caches and in-place sums change no result."""

import pytest
import torch
from conftest import tiny_backbone
from torch import Tensor, nn

from experts.adapter import build_adapter
from experts.adapter_bank import ExpertBank
from experts.gated_linear import GatedLinear, Route, fast_dropout
from experts.lora import LoraSettings, LoraSpec

IDS = torch.tensor([[5, 9, 2, 8], [7, 3, 1, 4]])
GATES = torch.tensor([[0.3, 0.7], [0.9, 0.1]])
UPSTREAM = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
"""Gradient of the loss at each state; a sum of squares would have none, since normalization fixes it."""


def random_bank(family: str) -> ExpertBank:
    bank = ExpertBank(tiny_backbone(family))
    torch.manual_seed(0)
    for name, rank in (("a", 3), ("b", 2)):
        bank.add_adapter(name, build_adapter(bank.layer_map, LoraSettings(r=rank, alpha=4), trunk_depth=0))
        with torch.no_grad():
            for parameter in bank.adapter_parameters(name).values():
                parameter.normal_(std=0.3)
    return bank


def random_layer(dtype: torch.dtype = torch.float32) -> tuple[GatedLinear, Route]:
    torch.manual_seed(0)
    route = Route()
    layer = GatedLinear(nn.Linear(16, 8).to(dtype), route)
    for name, rank in (("a", 3), ("b", 2)):
        layer.add_adapter(name, LoraSpec(rank, 2.0))
        nn.init.normal_(layer.lora_B[name])
    route.set(GATES, {"a": 0, "b": 1}, ("a", "b"), [layer])
    return layer, route


def states_and_gradients(bank: ExpertBank) -> tuple[Tensor, list[Tensor]]:
    """Return the states and the gradients of all experts of one pass."""
    bank.train_only("a", "b")
    bank.set_gates(GATES.clone().requires_grad_())
    out = bank.backbone(input_ids=IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state
    (out * UPSTREAM).sum().backward()
    parameters = [p for name in bank.routed_experts for p in bank.adapter_parameters(name).values()]
    return out.detach(), [p.grad for p in parameters if p.grad is not None]


def test_fused_products_change_neither_states_nor_gradients(family: str) -> None:
    fused, plain = random_bank(family), random_bank(family)
    plain.route.same_input_layers.clear()
    (fused_states, fused_grads), (plain_states, plain_grads) = states_and_gradients(fused), states_and_gradients(plain)
    torch.testing.assert_close(fused_states, plain_states, atol=1e-4, rtol=1e-4)
    for grad, expected in zip(fused_grads, plain_grads, strict=True):
        largest = float(expected.abs().max())
        assert largest > 0
        torch.testing.assert_close(grad, expected, atol=1e-4 * largest, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "first", "others"),
    [("bert", "query", 2), ("llama", "q_proj", 2), ("mpnet", "q", 2), ("distilbert", "q_lin", 2)],
)
def test_layers_with_the_same_input_are_grouped(name: str, first: str, others: int) -> None:
    bank = random_bank(name)
    groups = {
        path.rsplit(".", 1)[-1]: bank.route.same_input_layers.get(layer, []) for path, layer in bank._gated.items()
    }
    assert len(groups[first]) == others


def test_fused_product_is_not_used_for_another_input() -> None:
    bank = random_bank("bert")
    query, *others = next((first, *rest) for first, rest in bank.route.same_input_layers.items())
    x, other = torch.randn(2, 4, query.base.in_features), torch.randn(2, 4, query.base.in_features)
    bank.set_gates(GATES)
    with torch.no_grad():
        expected = others[0](other)
        bank.set_gates(GATES)
        query(x)
        torch.testing.assert_close(others[0](other), expected)


def test_in_place_sum_equals_sum_with_gradients() -> None:
    layer, _ = random_layer()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        original = x.clone()
        in_place = layer(x)
        flat = layer(x.view(-1, 16))
    torch.testing.assert_close(in_place, layer(x).detach())
    torch.testing.assert_close(flat.view_as(in_place), in_place)
    assert torch.equal(x, original)


def test_stack_cache_follows_the_weights() -> None:
    layer, route = random_layer()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        before = layer(x)
        layer.lora_B["a"].mul_(2.0)
        after = layer(x)
        layer._stack_cache.clear()
        torch.testing.assert_close(after, layer(x))
        assert not torch.allclose(before, after)
        route.set(GATES, {"a": 0, "b": 1}, ("b",), [layer])
        only_b = layer(x)
    expected = layer.base(x) + GATES[:, 1, None, None] * 2.0 * (x @ layer.lora_A["b"].T @ layer.lora_B["b"].T)
    torch.testing.assert_close(only_b, expected.detach())


def test_half_precision_rounds_after_summing_experts() -> None:
    layer, _ = random_layer(torch.bfloat16)
    exact, _ = random_layer()
    x = torch.randn(2, 5, 16).bfloat16()
    with torch.no_grad():
        exact.base.weight.copy_(layer.base.weight)
        exact.base.bias.copy_(layer.base.bias)
        expected = exact(x.float())
        torch.testing.assert_close(layer(x).float(), expected, atol=0.1, rtol=0.02)


def test_fast_dropout_zeroes_a_fraction_and_preserves_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(301, 333)
    for p in (0.05, 0.5):
        out = fast_dropout(x, p)
        assert abs(float((out == 0).double().mean()) - p) < 0.005
        torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / (1 - p)]))
        assert abs(float(out.mean()) - 1.0) < 0.02
    assert not torch.equal(fast_dropout(x, 0.5), fast_dropout(x, 0.5))
    assert torch.equal(fast_dropout(x, 0.0), x)
