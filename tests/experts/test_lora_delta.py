"""Tests of `experts.lora_delta`: padding and rescaling do not change an update, and sums are exact."""

import torch
from torch import Tensor

from experts.lora_delta import LowRankUpdate, sum_updates, uniform_update


def random_update(rank: int, scaling: float, names: str = "ab", seed: int = 0) -> LowRankUpdate:
    torch.manual_seed(seed)
    return LowRankUpdate(rank, scaling, {name: (torch.randn(rank, 6), torch.randn(4, rank)) for name in names})


def dense(update: LowRankUpdate, name: str) -> Tensor:
    """Return a layer's update as a matrix (D_out, D_in)."""
    a, b = update.layers[name]
    return update.scaling * b @ a


def test_padding_and_rescaling_do_not_change_an_update() -> None:
    update = random_update(3, 2.0)
    for other in (update.padded_to(5), update.with_unit_scaling(), update.with_zero_layers({"a": (6, 4), "c": (6, 4)})):
        for name in "ab":
            torch.testing.assert_close(dense(other, name), dense(update, name))
    assert update.padded_to(5).rank == 5
    assert not dense(update.with_zero_layers({"c": (6, 4)}), "c").any()


def test_uniform_update_has_one_rank_and_one_scaling() -> None:
    first, second = random_update(3, 2.0, "a"), random_update(1, 0.5, "b")
    combined = uniform_update({"a": (*first.layers["a"], 2.0), "b": (*second.layers["b"], 0.5)})
    assert (combined.rank, combined.scaling) == (3, 1.0)
    torch.testing.assert_close(dense(combined, "a"), dense(first, "a"))
    torch.testing.assert_close(dense(combined, "b"), dense(second, "b"))


def test_sum_of_updates_with_different_layers() -> None:
    first, second = random_update(3, 2.0, "ab"), random_update(2, 0.5, "bc", seed=1)
    combined = sum_updates([first, second])
    assert combined.rank == 5
    torch.testing.assert_close(dense(combined, "a"), dense(first, "a"))
    torch.testing.assert_close(dense(combined, "b"), dense(first, "b") + dense(second, "b"))
    torch.testing.assert_close(dense(combined, "c"), dense(second, "c"))


def test_compressed_update_is_the_closest_of_its_rank() -> None:
    update = random_update(3, 2.0)
    compressed = update.compressed_to(2)
    assert compressed.rank == 2
    for name in "ab":
        u, values, v = torch.linalg.svd(dense(update, name), full_matrices=False)
        torch.testing.assert_close(dense(compressed, name), u[:, :2] * values[:2] @ v[:2])
    assert update.compressed_to(3) is update
