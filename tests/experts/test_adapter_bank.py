"""Tests of `experts.adapter_bank`: one expert equals PEFT, several equal the weighted sum of their updates."""

import pytest
import torch
from conftest import family_params, tiny_backbone
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from experts.adapter import build_adapter, build_lora_config, resolve_adapter
from experts.adapter_bank import ExpertBank
from experts.errors import Fault
from experts.gated_linear import GatedLinear
from experts.lora import LayerMap, LoraSettings

IDS = torch.randint(3, 99, (3, 7), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0]])


def states(model: torch.nn.Module) -> Tensor:
    """Return the last hidden states of the test texts, with zeros for padding."""
    out = model(input_ids=IDS, attention_mask=MASK).last_hidden_state  # (B, T, D)
    return out * MASK[..., None]


def random_peft_model(backbone: PreTrainedModel, config: LoraConfig, seed: int) -> PeftModel:
    torch.manual_seed(seed)
    model = get_peft_model(backbone, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def peft_weights(model: PeftModel) -> dict[str, Tensor]:
    weights = {key: tensor for key, tensor in model.state_dict().items() if "lora_" in key}
    return {key.replace(".default", ""): tensor.clone() for key, tensor in weights.items()}


def two_experts(family: str, ranks: tuple[int, int] = (4, 2)) -> tuple[ExpertBank, list[Tensor]]:
    """Return a bank with two experts, and the states of each under PEFT."""
    expected, bank = [], ExpertBank(tiny_backbone(family))
    for i, rank in enumerate(ranks):
        config = build_lora_config(bank.layer_map, LoraSettings(r=rank, alpha=8 + i, dropout=0.0), trunk_depth=0)
        model = random_peft_model(tiny_backbone(family), config, seed=i)
        with torch.no_grad():
            expected.append(states(model))
        bank.add_adapter(f"e{i}", resolve_adapter(bank.layer_map, config))
        bank.load_adapter(f"e{i}", peft_weights(model))
    return bank, expected


def test_one_hot_gates_equal_that_expert_under_peft(family: str) -> None:
    bank, peft_states = two_experts(family)
    with torch.no_grad():
        for i, expected in enumerate(peft_states):
            bank.set_gates(torch.eye(2)[[i, i, i]])
            torch.testing.assert_close(states(bank.backbone), expected, atol=1e-5, rtol=1e-5)
            bank.set_adapter(f"e{i}")
            torch.testing.assert_close(states(bank.backbone), expected, atol=1e-5, rtol=1e-5)
    assert (peft_states[0] - peft_states[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", family_params("bert", "gpt2", "gemma2"))
def test_gates_select_experts_per_text(family: str) -> None:
    bank, peft_states = two_experts(family)
    bank.set_gates(torch.eye(2)[[0, 1, 0]])
    with torch.no_grad():
        mixed = states(bank.backbone)
    for row, expert in enumerate([0, 1, 0]):
        torch.testing.assert_close(mixed[row], peft_states[expert][row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", family_params("bert", "gpt2", "llama"))
def test_no_gates_leave_the_backbone_unchanged(family: str) -> None:
    bank, _ = two_experts(family)
    bank.set_gates(None)
    with torch.no_grad():
        torch.testing.assert_close(states(bank.backbone), states(tiny_backbone(family)))


@pytest.mark.parametrize("family", family_params("bert", "gpt2"))
def test_soft_gates_equal_the_weighted_sum_of_updates(family: str) -> None:
    bank, _ = two_experts(family, ranks=(4, 2))
    layer = next(m for m in bank.backbone.modules() if isinstance(m, GatedLinear))
    gates = torch.tensor([[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]])
    x = torch.randn(3, 7, layer.lora_A["e0"].shape[1])
    bank.set_gates(gates)
    with torch.no_grad():
        expected = layer.base(x)
        for i, name in enumerate(("e0", "e1")):
            update = layer.lora_specs[name].scaling * (x @ layer.lora_A[name].T @ layer.lora_B[name].T)
            expected = expected + gates[:, i, None, None] * update
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", family_params("bert", "gpt2", "llama"))
def test_constant_gates_per_token_equal_gates_per_text(family: str) -> None:
    if family == "deberta-v2":
        pytest.skip("relative positions are gated per text, not per token")
    bank, _ = two_experts(family)
    gates = torch.tensor([[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]])
    with torch.no_grad():
        bank.set_gates(gates)
        per_text = states(bank.backbone)
        bank.set_gates(gates[:, None].expand(3, 7, 2))
        torch.testing.assert_close(states(bank.backbone), per_text, atol=1e-5, rtol=1e-5)


def test_experts_and_gates_get_gradients(family: str) -> None:
    bank, _ = two_experts(family)
    bank.train_only("e0", "e1")
    bank.train()
    gates = torch.tensor([[0.3, 0.7], [0.9, 0.1], [0.5, 0.5]], requires_grad=True)
    bank.set_gates(gates)
    upstream = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(2))  # normalization fixes a sum of squares
    (states(bank.backbone) * upstream).sum().backward()
    for name in ("e0", "e1"):
        assert all(p.grad is not None and p.grad.abs().max() > 1e-5 for p in bank.adapter_parameters(name).values())
    assert gates.grad is not None
    assert (gates.grad.abs() > 1e-5).all()


def test_adapter_dropout_is_active_only_in_training() -> None:
    bank, _ = two_experts("bert")
    bank.set_dropout(0.5)
    bank.set_adapter("e0")
    with torch.no_grad():
        without_dropout = states(bank.backbone)
        assert torch.equal(states(bank.backbone), without_dropout)
        bank.train()
        assert not torch.equal(states(bank.backbone), without_dropout)
        bank.train(False)
        assert torch.equal(states(bank.backbone), without_dropout)


def test_shared_expert_is_always_on_until_disabled() -> None:
    bank, _ = two_experts("bert")
    routed, peft_states = two_experts("bert")
    bank.adapters["e1"] = type(bank.adapters["e1"])(**{**vars(bank.adapters["e1"]), "always_on": True})
    with torch.no_grad():
        bank.set_gates(None)
        torch.testing.assert_close(states(bank.backbone), peft_states[1], atol=1e-5, rtol=1e-5)
        bank.set_gates(torch.full((3, 1), 0.4))
        routed.set_gates(torch.tensor([[0.4, 1.0]] * 3))
        torch.testing.assert_close(states(bank.backbone), states(routed.backbone))
        bank.set_gates(torch.full((3, 1), 0.4), disabled=("e1",))
        routed.set_gates(torch.tensor([[0.4, 0.0]] * 3))
        torch.testing.assert_close(states(bank.backbone), states(routed.backbone))


def test_rank_and_alpha_patterns_equal_peft() -> None:
    bank = ExpertBank(tiny_backbone())
    config = build_lora_config(bank.layer_map, LoraSettings(r=4, alpha=8, dropout=0.0, rslora=True), 0)
    config.rank_pattern, config.alpha_pattern = {"query": 2}, {"intermediate.dense": 3}
    model = random_peft_model(tiny_backbone(), config, seed=3)
    bank.add_adapter("e", resolve_adapter(bank.layer_map, config))
    bank.load_adapter("e", peft_weights(model))
    bank.set_adapter("e")
    with torch.no_grad():
        torch.testing.assert_close(states(bank.backbone), states(model), atol=1e-5, rtol=1e-5)


def test_adapter_trained_on_a_model_with_a_head_can_be_loaded() -> None:
    bank, peft_states = two_experts("bert")
    weights = {key: p.detach().clone() for key, p in bank.adapter_parameters("e0").items()}
    bank.add_adapter("loaded", bank.adapters["e0"].adapter)
    weights = {key.replace("model.encoder", "model.bert.encoder"): tensor for key, tensor in weights.items()}
    bank.load_adapter("loaded", weights)
    bank.set_adapter("loaded")
    with torch.no_grad():
        torch.testing.assert_close(states(bank.backbone), peft_states[0], atol=1e-5, rtol=1e-5)


def test_trunk_has_no_adapter(family: str) -> None:
    bank = ExpertBank(tiny_backbone(family), trunk_depth=1)
    bank.add_adapter("e", build_adapter(bank.layer_map, LoraSettings(r=2), 1))
    assert {bank.layer_map.layer_index(path) for path in bank.adapters["e"].layers} == {1}


def test_train_only_sets_requires_grad() -> None:
    bank, _ = two_experts("bert")
    bank.train_only("e1")
    trainable = {
        name: {p.requires_grad for p in bank.adapter_parameters(name).values()} for name in bank.routed_experts
    }
    assert trainable == {"e0": {False}, "e1": {True}}
    bank.freeze()
    assert not any(p.requires_grad for p in bank.backbone.parameters())


def test_unused_experts_are_those_without_weight() -> None:
    bank, _ = two_experts("bert")
    assert bank.unused_experts(torch.eye(2)[[0, 0, 0]]) == ("e1",)


def test_faults_name_the_mismatch() -> None:
    backbone = tiny_backbone()
    layers = LayerMap.from_model(backbone)
    with pytest.raises(Fault, match="trunk depth from 0 to 1"):
        ExpertBank(backbone, trunk_depth=2)
    with pytest.raises(Fault, match="q_proj"):
        build_lora_config(layers, LoraSettings(targets=("q_proj",)), 0)
    bank = ExpertBank(backbone, trunk_depth=1)
    with pytest.raises(Fault, match="trunk"):
        bank.add_adapter("deep", build_adapter(layers, LoraSettings(), 0))
    with pytest.raises(Fault, match="none that match"):
        bank.add_adapter("other", resolve_adapter(layers, LoraConfig(target_modules=["nothing"])))
    bank.add_adapter("e", build_adapter(layers, LoraSettings(r=2), 1))
    with pytest.raises(Fault, match="missing"):
        bank.load_adapter("e", {})
