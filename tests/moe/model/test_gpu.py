"""Tests of GPU behaviour that need no GPU: no host synchronization, and all tensors on the backbone's device."""

from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from conftest import Make
from mixtures import build_batch, build_objective, random_mixture, tokenize_texts
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moe.config.stages import JOINT, WARMUP, Stage
from moe.model.backbone import load_backbone
from moe.model.mode import RoutingMode
from moe.training.trainer import set_trainable

META = torch.device("meta")  # like a GPU it does not compute with CPU tensors, but it is always available


class SyncCounter(TorchDispatchMode):
    """Counts operations that synchronize host and GPU: values read back, value-dependent sizes, constants copied."""

    SYNCHRONIZING = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "repeat_interleave", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.SYNCHRONIZING:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("gate", ["soft", "hard", "team", "fixed"])
def test_mixture_never_synchronizes_with_the_gpu_more_than_the_bare_backbone(
    make_work: Make, gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work()
    model, bare = random_mixture(load_backbone(work.run.backbone), work, gate), load_backbone(work.run.backbone).model
    inputs = tokenize_texts(model)
    pinned = torch.tensor([[True, False], [False, True], [True, True]])
    monkeypatch.setattr(type(model.bank), "on_cpu", False)
    with torch.no_grad(), SyncCounter() as expected:
        bare(**inputs)
    for options in ({}, {"allowed": pinned}, {"mode": RoutingMode(hard=True)}):
        model(**inputs, **options)
        with torch.no_grad(), SyncCounter() as counter:
            model(**inputs, **options)
        assert counter.counts == expected.counts


class FakeValues(TorchDispatchMode):
    """Supplies values to a forward pass on the meta device: every condition is true, every row is selected."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten, kwargs = torch.ops.aten, kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].device == META:
            return True if args[0].dtype == torch.bool else 1.0
        if func is aten.bincount.default:
            return torch.ones(args[2], dtype=torch.long, device=args[0].device)
        if func is aten.index.Tensor:
            args = (args[0], [_all_rows(index) for index in args[1]])
        return func(*args, **kwargs)


def _all_rows(index: Tensor | None) -> Tensor | None:
    return torch.arange(len(index), device=index.device) if index is not None and index.dtype == torch.bool else index


@pytest.mark.parametrize("gate", ["soft", "hard", "team", "fixed"])
@pytest.mark.parametrize("stage", [JOINT, WARMUP])
def test_forward_and_training_step_stay_on_the_backbones_device(
    make_work: Make, gate: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # autocast does not support the meta device
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone, META), work, gate)
    inputs = {key: value.to(META) for key, value in tokenize_texts(model).items()}
    pinned = torch.ones(3, 2, dtype=torch.bool, device=META)
    with FakeValues():
        trunk = model.encode_trunk(**inputs)[0]
        for options in ({}, {"allowed": pinned}, {"mode": RoutingMode(hard=True)}, {"trunk": trunk}):
            assert model(**inputs, **options).pooled.device == META
        with model.single_expert("news") as mode:
            assert model(**inputs, mode=mode).pooled.device == META
        mode = set_trainable(model.train(), stage, None)
        batch = {key: value.to(META) for key, value in build_batch(model, work).items()}
        build_objective(model, stage)(model(**batch, mode=mode), batch).backward()
    trained = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert trained
    assert all(p.grad.device == META for p in trained)
