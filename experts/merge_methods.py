"""Several updates weighed into one for good, by PEFT's `add_weighted_adapter`: linear, cat, SVD, TIES, DARE.

What an update is `experts.lora_delta` says. Like `experts.adapter` it imports PEFT, which is slow.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from experts.errors import Fault, suggest
from experts.lora_delta import LowRankUpdate, uniform_update, largest_rank

MergeMethod = Literal[
    "linear",
    "cat",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_ties",
    "dare_linear_svd",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]
MERGE_METHODS: tuple[str, ...] = get_args(MergeMethod)
DEFAULT_DENSITY = 0.5
"""Share of entries that pruning methods keep where nobody says; the middle of what their papers tried."""


def is_pruning_method(method: str) -> bool:
    """Whether a method keeps only a share of the entries."""
    return re.match("ties|dare|magnitude", method) is not None


def check_merge_method(method: str) -> None:
    """Refuse a method that PEFT has not.

    Raises:
        Fault: naming those that it has.
    """
    if method not in MERGE_METHODS:
        raise Fault(f"a way to merge among {', '.join(MERGE_METHODS)}", repr(method), suggest(method, MERGE_METHODS))


def merge_updates(
    updates: Mapping[str, LowRankUpdate],
    weights: Mapping[str, float],
    method: str,
    bases: Mapping[str, nn.Module],
    density: float = DEFAULT_DENSITY,
    rank: int | None = None,
    seed: int = 0,
) -> LowRankUpdate:
    """One update of several.

    Args:
        updates: by name; ranks may differ, the smaller are padded with zeros.
        weights: by the same names.
        method: one of `MERGE_METHODS`.
        bases: the frozen linear layers that the updates are of; they are read, not changed.
        density: share of the entries kept by methods that prune.
        rank: of the result, for methods that end in `svd`; by default the largest.
        seed: of DARE, which drops at random.

    Raises:
        Fault: for a method that PEFT has not.
    """
    check_merge_method(method)
    together = largest_rank(updates.values())
    alike = {name: one.widened(together) for name, one in updates.items()}
    tree = _tree({path: bases[path] for one in alike.values() for path in one.layers})
    how = {"density": density} if is_pruning_method(method) else {}
    size = {"svd_rank": rank, "svd_full_matrices": False} if method.endswith("svd") else {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LoraModel(tree, {name: _config(one, tree) for name, one in alike.items()}, next(iter(alike)))
        for name in list(alike)[1:]:
            model.inject_adapter(tree, name)
        _fill(model, alike)
        model.add_weighted_adapter(list(alike), [weights[name] for name in alike], "merged", method, **how, **size)  # type: ignore[arg-type]
    return uniform_update(dict(_read(model, "merged")))


def _config(one: LowRankUpdate, tree: nn.Module) -> LoraConfig:
    paths = [re.escape(path) for path in one.layers]
    return LoraConfig(
        r=one.rank,
        lora_alpha=one.scaling * one.rank,  # type: ignore[arg-type]
        target_modules="|".join(paths),  # PEFT would match the end of a plain name
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in tree.modules()),
    )


def _tree(layers: Mapping[str, nn.Module]) -> nn.Module:
    """Empty modules with these layers at their places: all that PEFT needs of a model."""
    root = nn.Module()
    for path, layer in layers.items():
        *parents, last = path.split(".")
        place = root
        for name in parents:
            if not hasattr(place, name):
                place.add_module(name, nn.Module())
            place = getattr(place, name)
        place.add_module(last, layer)
    return root


def _fill(model: LoraModel, updates: Mapping[str, LowRankUpdate]) -> None:
    for name, one in updates.items():
        for path, (a, b) in one.layers.items():
            layer = model.model.get_submodule(path)
            layer.lora_A[name].weight.copy_(a)
            layer.lora_B[name].weight.copy_(b)


def _read(model: LoraModel, name: str) -> Sequence[tuple[str, tuple[Tensor, Tensor, float]]]:
    found = []
    for path, layer in model.model.named_modules():
        if hasattr(layer, "lora_A") and name in layer.lora_A:
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            found.append((path, (a.detach().cpu(), b.detach().cpu(), float(layer.scaling[name]))))
    return found
