"""Claims about a GPU that can be held without one: its host never waits, and all lies where the backbone does."""

from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from conftest import Make
from mixtures import batch_of, mixture, objective, tokens
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moe.config.stages import JOINT, WARMUP, Stage
from moe.model.backbone import load_backbone
from moe.training.trainer import set_trainable

META = torch.device("meta")  # like a GPU it does not compute with the CPU's tensors, and unlike one it is always there


class Asking(TorchDispatchMode):
    """Counts what makes a GPU's host wait: numbers read back, sizes that depend on values, constants sent over."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "repeat_interleave", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("gate", ["soft", "hard", "team", "fixed"])
def test_a_pass_never_waits_for_the_host_where_the_bare_backbone_does_not(
    make_work: Make, gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work()
    model, bare = mixture(load_backbone(work.run.backbone), work, gate), load_backbone(work.run.backbone).model
    given = tokens(model)
    pinned = torch.tensor([[True, False], [False, True], [True, True]])
    monkeypatch.setattr(type(model.bank), "on_host", False)
    with torch.no_grad(), Asking() as wanted:
        bare(**given)
    for options in ({}, {"allowed": pinned}, {"hard": True}):
        model(**given, **options)
        with torch.no_grad(), Asking() as found:
            model(**given, **options)
        assert found.found == wanted.found


class Pretending(TorchDispatchMode):
    """Lets a pass without values go on where it asks for values: every condition holds, every row is chosen."""

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
def test_all_that_a_pass_and_a_step_touch_lies_on_the_backbones_device(
    make_work: Make, gate: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know the stand-in
    work = make_work()
    model = mixture(load_backbone(work.run.backbone, META), work, gate)
    given = {key: value.to(META) for key, value in tokens(model).items()}
    pinned = torch.ones(3, 2, dtype=torch.bool, device=META)
    with Pretending():
        for options in ({}, {"allowed": pinned}, {"hard": True}, {"trunk": model.encode_trunk(**given)[0]}):
            assert model(**given, **options).pooled.device == META
        with model.single_expert("news"):
            assert model(**given).pooled.device == META
        set_trainable(model.train(), stage, None)
        batch = {key: value.to(META) for key, value in batch_of(model, work).items()}
        objective(model, stage)(model(**batch), batch).backward()
    learns = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert learns
    assert all(p.grad.device == META for p in learns)
