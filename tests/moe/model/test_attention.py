"""Claims about `moe.model.backbone_ops`.

Short rows in training take plain products, which give the fused kernel's states.
"""

import pytest
import torch
from conftest import Make, tiny_backbone

from moe.model.backbone_ops import MAX_EAGER_TOKENS, AttentionSwitch
from moe.model.packing import backbone_states, find_packing_mode
from moe.training import trainer as train
from moe.training.steps import train_domain

LONGEST = MAX_EAGER_TOKENS[torch.float32]
PLACES = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2, 3]])


def test_both_codes_give_the_same_states_and_gradients(family: str) -> None:
    model = tiny_backbone(family).eval()
    model.config.use_cache = False
    ids = torch.randint(4, 99, (2, 7), generator=torch.Generator().manual_seed(1))
    attention, mode = AttentionSwitch(model), find_packing_mode(model)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    upstream = torch.randn(
        12, 32, generator=torch.Generator().manual_seed(2)
    )  # a sum of squares hides what a norm does
    packed = [mode.inputs(PLACES, torch.float32)] if mode else []
    for inputs in ({"attention_mask": mask}, *packed):
        found = []
        for tokens in (LONGEST + 1, LONGEST):
            attention.select(tokens)
            model.zero_grad()
            states = backbone_states(model, ids, **inputs)[mask.bool()]  # (N, D)
            (states * upstream).sum().backward()
            found.append((states.detach(), model.get_input_embeddings().weight.grad))
        for one, other in zip(*found, strict=True):
            size = float(one.abs().max())
            assert size > 0.01
            torch.testing.assert_close(one, other, atol=1e-4 * size, rtol=1e-4)


def test_short_rows_change_it_longer_ones_and_restoring_bring_the_backbone_s_own_again() -> None:
    model = tiny_backbone("bert")
    attention = AttentionSwitch(model)
    own = model.config._attn_implementation
    assert own == "sdpa"
    attention.select(LONGEST)
    assert model.config._attn_implementation == "eager"
    attention.select(LONGEST + 1)
    assert model.config._attn_implementation == own
    attention.select(1)
    attention.restore()
    assert model.config._attn_implementation == own


def test_a_choice_that_somebody_made_stays() -> None:
    model = tiny_backbone("bert")
    model.set_attn_implementation("eager")
    attention = AttentionSwitch(model)
    attention.select(LONGEST + 1)
    assert model.config._attn_implementation == "eager"


def test_training_takes_it_and_evaluation_does_not(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[bool, str]] = set()
    own = train.Mixture.forward

    def watched(self: train.Mixture, *args: object, **more: object) -> object:
        seen.add((torch.is_grad_enabled(), self.backbone.config._attn_implementation))
        return own(self, *args, **more)

    monkeypatch.setattr(train.Mixture, "forward", watched)
    train_domain(make_work(), "news")
    assert seen == {(True, "eager"), (False, "sdpa")}
