"""Claims about updates weighed into one by PEFT: what is exact is exact, the rest is of the size it should be."""

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from experts.errors import Fault
from experts.lora_delta import LowRankUpdate
from experts.merge_methods import MERGE_METHODS, merge_updates

NAMES = ("layer.0.q", "layer.0.k", "layer.1.q")
WEIGHTS = {"news": 0.7, "forum": 0.3}


def bases(kind: str = "linear") -> dict[str, nn.Module]:
    make = (lambda: nn.Linear(6, 4)) if kind == "linear" else lambda: Conv1D(4, 6)
    return {name: make().requires_grad_(False) for name in NAMES}


def update(rank: int, scaling: float, seed: int) -> LowRankUpdate:
    torch.manual_seed(seed)
    return LowRankUpdate(rank, scaling, {name: (torch.randn(rank, 6), torch.randn(4, rank)) for name in NAMES})


def whole(one: LowRankUpdate, name: str) -> Tensor:
    a, b = one.layers[name]
    return one.scaling * b @ a


UPDATES = {"news": update(2, 2.0, 0), "forum": update(1, 0.5, 1)}


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("method", ["cat", "svd"])
def test_cat_and_svd_of_enough_rank_are_the_weighted_sum(kind: str, method: str) -> None:
    rank = 3 if method == "svd" else None
    found = merge_updates(UPDATES, WEIGHTS, method, bases(kind), rank=rank)
    for name in NAMES:
        wanted = sum(weight * whole(UPDATES[key], name) for key, weight in WEIGHTS.items())
        torch.testing.assert_close(whole(found, name), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", MERGE_METHODS)
def test_every_method_gives_every_layer_an_update_and_leaves_the_bases_alone(method: str) -> None:
    layers = bases()
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    found = merge_updates(UPDATES, WEIGHTS, method, layers)
    assert torch.equal(torch.random.get_rng_state(), state), "DARE draws from a generator of its own"
    again = merge_updates(UPDATES, WEIGHTS, method, layers)
    assert found.layers.keys() == set(NAMES)
    for name in NAMES:
        assert torch.equal(whole(found, name), whole(again, name))
        assert whole(found, name).any()
        assert torch.equal(layers[name].weight, before[name])
        assert type(layers[name]) is nn.Linear


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(Fault, match="Did you mean linear"):
        merge_updates(UPDATES, WEIGHTS, "lineer", bases())
