"""Merging several LoRA updates into one with PEFT's `add_weighted_adapter`: linear, cat, SVD, TIES, DARE.

Like `experts.adapter`, this module imports PEFT, which is slow to import.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

import torch
from peft import LoraConfig, PeftConfig
from peft.tuners.lora import LoraModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from experts.errors import Fault, suggest
from experts.lora_delta import LowRankUpdate, largest_rank, uniform_update

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
"""Fraction of entries that pruning methods retain by default, the middle of the range in their papers."""


def is_pruning_method(method: str) -> bool:
    """Whether a method retains only a fraction of the entries."""
    return re.match("ties|dare|magnitude", method) is not None


def check_merge_method(method: str) -> MergeMethod:
    """Return a merge method if PEFT supports it.

    Raises:
        Fault: if `method` is not one of `MERGE_METHODS`.
    """
    if method not in MERGE_METHODS:
        raise Fault(f"a merge method among {', '.join(MERGE_METHODS)}", repr(method), suggest(method, MERGE_METHODS))
    return cast(MergeMethod, method)


def merge_updates(
    updates: Mapping[str, LowRankUpdate],
    weights: Mapping[str, float],
    method: str,
    base_layers: Mapping[str, nn.Module],
    density: float = DEFAULT_DENSITY,
    rank: int | None = None,
    seed: int = 0,
) -> LowRankUpdate:
    """Merge several updates into one.

    Args:
        updates: by name; ranks may differ, lower ranks are padded with zeros.
        weights: by the same names.
        method: one of `MERGE_METHODS`.
        base_layers: the frozen linear layers that the updates belong to, by dotted name; they are not changed.
        density: fraction of entries that pruning methods retain.
        rank: rank of the result for methods that end in `svd`; the largest of the updates by default.
        seed: seed of DARE, which drops entries at random.

    Raises:
        Fault: if PEFT does not support the method.
    """
    combination = check_merge_method(method)
    common_rank = largest_rank(updates.values())
    padded = {name: update.padded_to(common_rank) for name, update in updates.items()}
    tree = _module_tree({path: base_layers[path] for update in padded.values() for path in update.layers})
    uses_svd = method.endswith("svd")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        configs: dict[str, PeftConfig] = {name: _lora_config(update, tree) for name, update in padded.items()}
        model = LoraModel(tree, configs, next(iter(padded)))
        for name in list(padded)[1:]:
            model.inject_adapter(tree, name)
        _load_updates(model, padded)
        model.add_weighted_adapter(
            adapters=list(padded),
            weights=[weights[name] for name in padded],
            adapter_name="merged",
            combination_type=combination,
            svd_rank=rank if uses_svd else None,
            svd_full_matrices=not uses_svd,
            density=density if is_pruning_method(method) else None,
        )
    return uniform_update(dict(_adapter_factors(model, "merged")))


def _lora_config(update: LowRankUpdate, tree: nn.Module) -> LoraConfig:
    paths = [re.escape(path) for path in update.layers]
    return LoraConfig(
        r=update.rank,
        lora_alpha=cast(int, update.scaling * update.rank),  # PEFT declares an int, and computes with any number
        target_modules="|".join(paths),  # a regular expression: PEFT matches plain names as suffixes
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in tree.modules()),
    )


def _module_tree(layers: Mapping[str, nn.Module]) -> nn.Module:
    """Nest layers in empty modules by their dotted names, which is all that PEFT needs of a model."""
    root = nn.Module()
    for path, layer in layers.items():
        *parents, last = path.split(".")
        module = root
        for name in parents:
            if not hasattr(module, name):
                module.add_module(name, nn.Module())
            module = getattr(module, name)
        module.add_module(last, layer)
    return root


def _load_updates(model: LoraModel, updates: Mapping[str, LowRankUpdate]) -> None:
    for name, update in updates.items():
        for path, (a, b) in update.layers.items():
            layer = model.model.get_submodule(path)
            layer.lora_A[name].weight.copy_(a)
            layer.lora_B[name].weight.copy_(b)


def _adapter_factors(model: LoraModel, name: str) -> Sequence[tuple[str, tuple[Tensor, Tensor, float]]]:
    """Return dotted name, A, B and scaling of every layer with this adapter."""
    factors = []
    for path, layer in model.model.named_modules():
        if hasattr(layer, "lora_A") and name in layer.lora_A:
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            factors.append((path, (a.detach().cpu(), b.detach().cpu(), float(layer.scaling[name]))))
    return factors
