"""Claims about the gated layer: what is fused, kept and added in place changes no result."""

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
"""Of each state: a norm holds the sum of its squares, which would teach nothing."""


def random_bank(family: str) -> ExpertBank:
    bank = ExpertBank(tiny_backbone(family))
    torch.manual_seed(0)
    for name, rank in (("a", 3), ("b", 2)):
        bank.add_adapter(name, build_adapter(bank.layer_map, LoraSettings(r=rank, alpha=4), trunk_depth=0))
        with torch.no_grad():
            for parameter in bank.adapter_parameters(name).values():
                parameter.normal_(std=0.3)
    return bank


def lone_layer(dtype: torch.dtype = torch.float32) -> tuple[GatedLinear, Route]:
    torch.manual_seed(0)
    route = Route()
    layer = GatedLinear(nn.Linear(16, 8).to(dtype), route)
    for name, rank in (("a", 3), ("b", 2)):
        layer.add(name, LoraSpec(rank, 2.0))
        nn.init.normal_(layer.lora_B[name])
    route.set(GATES, {"a": 0, "b": 1}, ("a", "b"), [layer])
    return layer, route


def passed(bank: ExpertBank) -> tuple[Tensor, list[Tensor]]:
    """States and every expert's gradient of one pass."""
    bank.train_only("a", "b")
    bank.set_gates(GATES.clone().requires_grad_())
    out = bank.backbone(input_ids=IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state
    (out * UPSTREAM).sum().backward()
    parameters = [p for name in bank.routed_experts for p in bank.adapter_parameters(name).values()]
    return out.detach(), [p.grad for p in parameters if p.grad is not None]


def test_fusing_the_readers_of_one_input_changes_neither_states_nor_gradients(family: str) -> None:
    fused, plain = random_bank(family), random_bank(family)
    plain.route_state.readers.clear()
    (ours, grads), (theirs, wanted) = passed(fused), passed(plain)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for grad, want in zip(grads, wanted, strict=True):
        size = float(want.abs().max())
        assert size > 0
        torch.testing.assert_close(grad, want, atol=1e-4 * size, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "first", "others"),
    [("bert", "query", 2), ("llama", "q_proj", 2), ("mpnet", "q", 2), ("distilbert", "q_lin", 2)],
)
def test_q_k_and_v_make_one_product(name: str, first: str, others: int) -> None:
    bank = random_bank(name)
    groups = {path.rsplit(".", 1)[-1]: bank.route.readers.get(layer, []) for path, layer in bank._gated.items()}
    assert len(groups[first]) == others


def test_a_reader_given_another_input_makes_its_own_product() -> None:
    bank = random_bank("bert")
    query, *others = next((first, *rest) for first, rest in bank.route.readers.items())
    x, other = torch.randn(2, 4, query.base.in_features), torch.randn(2, 4, query.base.in_features)
    bank.set_gates(GATES)
    with torch.no_grad():
        expected = others[0](other)
        bank.set_gates(GATES)
        query(x)
        torch.testing.assert_close(others[0](other), expected)


def test_adding_in_place_equals_adding_with_gradients() -> None:
    layer, _ = lone_layer()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        kept = x.clone()
        still = layer(x)
        flat = layer(x.view(-1, 16))
    torch.testing.assert_close(still, layer(x).detach())
    torch.testing.assert_close(flat.view_as(still), still)
    assert torch.equal(x, kept)


def test_stacks_follow_the_weights() -> None:
    layer, route = lone_layer()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        before = layer(x)
        layer.lora_B["a"].mul_(2.0)
        after = layer(x)
        layer._kept.clear()
        torch.testing.assert_close(after, layer(x))
        assert not torch.allclose(before, after)
        route.set(GATES, {"a": 0, "b": 1}, ("b",), [layer])
        alone = layer(x)
    expected = layer.base(x) + GATES[:, 1, None, None] * 2.0 * (x @ layer.lora_A["b"].T @ layer.lora_B["b"].T)
    torch.testing.assert_close(alone, expected.detach())


def test_half_precision_sums_experts_before_it_rounds() -> None:
    layer, _ = lone_layer(torch.bfloat16)
    exact, _ = lone_layer()
    x = torch.randn(2, 5, 16).bfloat16()
    with torch.no_grad():
        exact.base.weight.copy_(layer.base.weight)
        exact.base.bias.copy_(layer.base.bias)
        wanted = exact(x.float())
        torch.testing.assert_close(layer(x).float(), wanted, atol=0.1, rtol=0.02)


def test_dropout_zeroes_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(301, 333)
    for share in (0.05, 0.5):
        out = fast_dropout(x, share)
        assert abs(float((out == 0).double().mean()) - share) < 0.005
        torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / (1 - share)]))
        assert abs(float(out.mean()) - 1.0) < 0.02
    assert not torch.equal(fast_dropout(x, 0.5), fast_dropout(x, 0.5))
    assert torch.equal(fast_dropout(x, 0.0), x)
