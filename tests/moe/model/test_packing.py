"""Claims about `moe.model.packing`: documents in one row have the states that they have alone, or are not packed."""

import pytest
import torch
from conftest import tiny_backbone

from moe.model.packing import PackingMode, find_packing_mode

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
        packed = model(input_ids=ids, **way.inputs(PLACES.expand(2, -1), torch.float32)).last_hidden_state
        alone = [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in ids.split(LENGTHS, 1)]
        parts = [model(**one).last_hidden_state for one in alone]
    torch.testing.assert_close(packed, torch.cat(parts, 1), atol=1e-5, rtol=1e-5)


def test_a_backbone_that_keeps_no_documents_apart_has_no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_backbone("bert")
    own = model.forward
    monkeypatch.setattr(model, "forward", lambda input_ids, **_: own(input_ids, torch.ones_like(input_ids)))
    assert find_packing_mode(model) is None


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
