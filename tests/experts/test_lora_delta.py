"""Claims about low-rank updates: what is padded, added, spread or scaled otherwise is the same update."""

import torch
from torch import Tensor

from experts.lora_delta import LowRankUpdate, uniform_update, sum_updates


def some(rank: int, scaling: float, names: str = "ab", seed: int = 0) -> LowRankUpdate:
    torch.manual_seed(seed)
    return LowRankUpdate(rank, scaling, {name: (torch.randn(rank, 6), torch.randn(4, rank)) for name in names})


def whole(update: LowRankUpdate, name: str) -> Tensor:
    a, b = update.layers[name]
    return update.scaling * b @ a


def test_padding_spreading_and_scaling_leave_the_update_as_it_is() -> None:
    update = some(3, 2.0)
    for other in (update.padded_to(5), update.with_unit_scaling(), update.with_zero_layers({"a": (6, 4), "c": (6, 4)})):
        for name in "ab":
            torch.testing.assert_close(whole(other, name), whole(update, name))
    assert update.padded_to(5).rank == 5
    assert not whole(update.with_zero_layers({"c": (6, 4)}), "c").any()


def test_layers_of_unlike_rank_and_scaling_become_one_rank_and_one_scaling() -> None:
    one, two = some(3, 2.0, "a"), some(1, 0.5, "b")
    both = uniform_update({"a": (*one.layers["a"], 2.0), "b": (*two.layers["b"], 0.5)})
    assert (both.rank, both.scaling) == (3, 1.0)
    torch.testing.assert_close(whole(both, "a"), whole(one, "a"))
    torch.testing.assert_close(whole(both, "b"), whole(two, "b"))


def test_a_sum_is_the_sum_where_both_touch_and_the_one_where_one_does() -> None:
    one, two = some(3, 2.0, "ab"), some(2, 0.5, "bc", seed=1)
    both = sum_updates([one, two])
    assert both.rank == 5
    torch.testing.assert_close(whole(both, "a"), whole(one, "a"))
    torch.testing.assert_close(whole(both, "b"), whole(one, "b") + whole(two, "b"))
    torch.testing.assert_close(whole(both, "c"), whole(two, "c"))
