"""Claims about `moe.model.packing`: documents in one row have the states that they have alone, or are not packed."""

import pytest
import torch
from conftest import tiny_backbone

from moe.model import packing
from moe.model.packing import PackingMode, add_sliding_window, backbone_states, find_packing_mode

LENGTHS = (4, 5, 3)
PLACES = torch.cat([torch.arange(one) for one in LENGTHS])[None]


def test_packed_documents_have_the_states_that_they_have_alone(family: str) -> None:
    model = tiny_backbone(family)
    model.config.use_cache = False
    way = find_packing_mode(model)
    assert (way is None) == (family == "deberta-v2"), "DeBERTa takes no mask of documents"
    if way is None:
        return
    ids = torch.randint(4, 99, (2, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        packed = backbone_states(model, ids, **way.inputs(PLACES.expand(2, -1), torch.float32))
        parts = [model(one, attention_mask=torch.ones_like(one)).last_hidden_state for one in ids.split(LENGTHS, 1)]
    torch.testing.assert_close(packed, torch.cat(parts, 1), atol=1e-5, rtol=1e-5)


def test_a_backbone_that_keeps_no_documents_apart_has_no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_backbone("bert")
    own = model.forward
    monkeypatch.setattr(model, "forward", lambda input_ids, **_: own(input_ids, torch.ones_like(input_ids)))
    assert find_packing_mode(model) is None


@pytest.mark.parametrize(("name", "left", "right"), [("mistral", 1, 0), ("modernbert", 2, 2)])
def test_where_a_backbone_has_a_window_its_mask_has_it_too(name: str, left: int, right: int) -> None:
    config = tiny_backbone(name).config
    config.sliding_window = 2
    mask = PackingMode(uses_mask=True, causal=right == 0).inputs(torch.arange(5)[None], torch.float32)["attention_mask"]
    seen = add_sliding_window(config, mask, torch.arange(5)[None])
    narrow = seen["sliding_attention"] if isinstance(seen, dict) else seen
    near = [[-left <= other - own <= right for other in range(5)] for own in range(5)]
    assert (narrow[0, 0] == 0).tolist() == near
    assert not isinstance(seen, dict) or seen["full_attention"] is mask


def test_a_window_wider_than_the_trial_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_backbone("modernbert")
    model.config.sliding_window = 64
    with torch.no_grad():
        for weight in model.layers.parameters():
            weight.mul_(10)  # so that a token's neighbours weigh
    assert find_packing_mode(model) is not None
    monkeypatch.setattr(packing, "add_sliding_window", lambda _, mask, __: mask)
    assert find_packing_mode(model) is None
    assert model.config.sliding_window == 64


def test_the_mask_hides_other_documents_and_what_comes_later() -> None:
    places = torch.tensor([[0, 1, 0, 1, 2]])
    seen = PackingMode(uses_mask=True, causal=True).inputs(places, torch.float32)["attention_mask"]
    assert seen is not None
    assert (seen[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
