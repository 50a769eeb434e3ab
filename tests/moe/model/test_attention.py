"""Tests of the choice of the attention implementation: short rows train with eager attention on CPUs."""

import pytest
import torch
from conftest import Make, tiny_backbone

from moe.model.backbone_ops import MAX_EAGER_TOKENS, AttentionSwitch, backbone_states, find_packing_mode
from moe.training import trainer
from moe.training.expert_steps import train_domain

LONGEST = MAX_EAGER_TOKENS[torch.float32]
POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2, 3]])


def test_eager_and_fused_attention_give_the_same_states_and_gradients(family: str) -> None:
    model = tiny_backbone(family).eval()
    model.config.use_cache = False
    ids = torch.randint(4, 99, (2, 7), generator=torch.Generator().manual_seed(1))
    attention, mode = AttentionSwitch(model), find_packing_mode(model)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    # random: the gradient of a sum of squares vanishes behind a norm
    upstream = torch.randn(12, 32, generator=torch.Generator().manual_seed(2))
    packed = [mode.inputs(POSITIONS, torch.float32)] if mode else []
    for inputs in ({"attention_mask": mask}, *packed):
        results = []
        for tokens in (LONGEST + 1, LONGEST):
            attention.select(tokens)
            model.zero_grad()
            states = backbone_states(model, ids, **inputs)[mask.bool()]  # (N, D)
            (states * upstream).sum().backward()
            results.append((states.detach(), model.get_input_embeddings().weight.grad))
        for fused, eager in zip(*results, strict=True):
            size = float(fused.abs().max())
            assert size > 0.01
            torch.testing.assert_close(fused, eager, atol=1e-4 * size, rtol=1e-4)


def test_attention_switch_uses_eager_for_short_rows_and_the_default_otherwise() -> None:
    model = tiny_backbone("bert")
    attention = AttentionSwitch(model)
    default = model.config._attn_implementation
    assert default == "sdpa"
    attention.select(LONGEST)
    assert model.config._attn_implementation == "eager"
    attention.select(LONGEST + 1)
    assert model.config._attn_implementation == default
    attention.select(1)
    attention.restore()
    assert model.config._attn_implementation == default


def test_attention_switch_keeps_an_implementation_set_by_the_user() -> None:
    model = tiny_backbone("bert")
    model.set_attn_implementation("eager")
    attention = AttentionSwitch(model)
    attention.select(LONGEST + 1)
    assert model.config._attn_implementation == "eager"


def test_training_uses_eager_attention_and_evaluation_does_not(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[bool, str]] = set()
    forward = trainer.Mixture.forward

    def watched(self: trainer.Mixture, *args: object, **kwargs: object) -> object:
        seen.add((torch.is_grad_enabled(), self.backbone.config._attn_implementation))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(trainer.Mixture, "forward", watched)
    train_domain(make_work(), "news")
    assert seen == {(True, "eager"), (False, "sdpa")}
