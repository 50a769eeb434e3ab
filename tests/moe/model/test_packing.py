"""Tests of packing: packed documents have the states that they have alone, or are not packed."""

import pytest
import torch
from conftest import tiny_backbone

from moe.model import backbone_ops
from moe.model.backbone_ops import PackingMode, add_sliding_window, backbone_states, find_packing_mode

LENGTHS = (4, 5, 3)
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])[None]


def test_packed_documents_have_the_states_that_they_have_alone(family: str) -> None:
    model = tiny_backbone(family)
    model.config.use_cache = False
    mode = find_packing_mode(model)
    assert (mode is None) == (family == "deberta-v2"), "DeBERTa does not support a mask of documents"
    if mode is None:
        return
    ids = torch.randint(4, 99, (2, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        packed = backbone_states(model, ids, **mode.inputs(POSITIONS.expand(2, -1), torch.float32))
        separate = [
            model(part, attention_mask=torch.ones_like(part)).last_hidden_state for part in ids.split(LENGTHS, 1)
        ]
    torch.testing.assert_close(packed, torch.cat(separate, 1), atol=1e-5, rtol=1e-5)


def test_find_packing_mode_returns_none_if_documents_cannot_be_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_backbone("bert")
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda input_ids, **_: forward(input_ids, torch.ones_like(input_ids)))
    assert find_packing_mode(model) is None


@pytest.mark.parametrize(("name", "left", "right"), [("mistral", 1, 0), ("modernbert", 2, 2)])
def test_packing_mask_contains_the_sliding_window_of_the_backbone(name: str, left: int, right: int) -> None:
    config = tiny_backbone(name).config
    config.sliding_window = 2
    mask = PackingMode(uses_mask=True, causal=right == 0).inputs(torch.arange(5)[None], torch.float32)["attention_mask"]
    masks = add_sliding_window(config, mask, torch.arange(5)[None])
    windowed = masks["sliding_attention"] if isinstance(masks, dict) else masks
    visible = [[-left <= key - query <= right for key in range(5)] for query in range(5)]
    assert (windowed[0, 0] == 0).tolist() == visible
    assert not isinstance(masks, dict) or masks["full_attention"] is mask


def test_find_packing_mode_tries_windows_wider_than_its_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_backbone("modernbert")
    model.config.sliding_window = 64
    with torch.no_grad():
        for weight in model.layers.parameters():
            weight.mul_(10)  # so that a token's neighbours matter
    assert find_packing_mode(model) is not None
    monkeypatch.setattr(backbone_ops, "add_sliding_window", lambda _, mask, __: mask)
    assert find_packing_mode(model) is None
    assert model.config.sliding_window == 64


def test_packing_mask_hides_other_documents_and_later_tokens() -> None:
    positions = torch.tensor([[0, 1, 0, 1, 2]])
    mask = PackingMode(uses_mask=True, causal=True).inputs(positions, torch.float32)["attention_mask"]
    assert mask is not None
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
