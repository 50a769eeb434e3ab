"""Claims about layers as a whole: run again on the way back they teach the same and keep less."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from conftest import Make, made_up_rows, save_backbone, tiny_run, write_csv
from corpora import asking
from distributed import CALM
from mixtures import batch_of, mixture, objective
from safetensors.torch import load_file
from torch import Tensor

from moe.config.stages import JOINT
from moe.model.backbone import load_backbone
from moe.model.backbone_ops import activation_checkpointing
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.pretrain import pretrain
from moe.training.steps import merge_experts, train_domain, train_router
from moe.training.trainer import set_trainable


def learning(family: str, place: Path) -> tuple[Mixture, Workspace]:
    folder = save_backbone(place / "backbone", family)
    for name in ("news", "forum"):
        write_csv(place / "data" / f"{name}.csv", made_up_rows(name))
    work = Workspace(tiny_run(folder, place / "data"), place)
    model = mixture(load_backbone(work.run.backbone), work)
    set_trainable(model, JOINT, None)
    return model.train(), work


def taught(model: Mixture, work: Workspace, around: Callable[[], AbstractContextManager[None]]) -> tuple[dict, int]:
    """Gradients of one step, and the bytes that were kept for its way back."""
    batch, kept = batch_of(model, work), {}
    model.zero_grad()
    torch.manual_seed(3)

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with around():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = objective(model)(model(**batch), batch)
        loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, sum(kept.values())


def test_layers_run_again_teach_the_same_in_every_family_with_dropout_too(family: str, tmp_path: Path) -> None:
    model, work = learning(family, tmp_path)
    model.bank.set_dropout(0.3)
    plain, much = taught(model, work, nullcontext)
    again, little = taught(model, work, lambda: activation_checkpointing(model.backbone, model.bank.trunk_depth))
    assert plain.keys() == again.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(
            again[name], grad, rtol=1e-4, atol=1e-6, msg=lambda told, name=name: f"{name}: {told}"
        )
    assert little < much


def test_nothing_is_left_of_it_behind(make_work: Make) -> None:
    model = mixture(load_backbone(make_work().run.backbone), make_work())
    layers = list(model.backbone.encoder.layer)
    before = [layer.forward for layer in layers], model.backbone.config.use_cache
    with activation_checkpointing(model.backbone, 1):
        assert layers[0].forward == before[0][0], "the trunk has no way back"
        assert layers[1].forward != before[0][1]
    assert ([layer.forward for layer in layers], model.backbone.config.use_cache) == before


@pytest.mark.parametrize("kind", ["labels", pytest.param("texts", marks=pytest.mark.slow)])
def test_a_run_whose_layers_run_again_ends_with_the_same_weights(make_work: Make, tmp_path: Path, kind: str) -> None:
    ends = []
    for recompute in (False, True):
        over = CALM | {"stages": {"recompute": recompute}}
        if kind == "labels":
            work = make_work(f"run-{recompute}", **over)
            for domain in ("news", "forum"):
                train_domain(work, domain)
        else:
            work = asking(tmp_path / f"team-{recompute}", **over)
            pretrain(work)
        merge_experts(work)
        train_router(work)
        ends.append(load_file(work.out / "moe-joint" / "experts" / "news" / "adapter_model.safetensors"))
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor, rtol=1e-3, atol=1e-5)
