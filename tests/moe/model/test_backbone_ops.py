"""Tests of activation checkpointing: the same gradients and weights with less memory."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from conftest import Make, family_params, made_up_rows, save_backbone, tiny_run, write_csv
from corpora import make_question_workspace
from distributed import NO_DROPOUT
from mixtures import build_batch, build_objective, random_mixture
from safetensors.torch import load_file
from torch import Tensor

from moe.config.stages import JOINT
from moe.model.backbone import load_backbone
from moe.model.backbone_ops import activation_checkpointing
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.language.pretrain import pretrain
from moe.training.steps import merge_experts, train_router
from moe.training.trainer import set_trainable


def trainable_mixture(family: str, folder: Path) -> tuple[Mixture, Workspace]:
    backbone = save_backbone(folder / "backbone", family)
    for name in ("news", "forum"):
        write_csv(folder / "data" / f"{name}.csv", made_up_rows(name))
    work = Workspace(tiny_run(backbone, folder / "data"), folder)
    model = random_mixture(load_backbone(work.run.backbone), work)
    set_trainable(model, JOINT, None)
    return model.train(), work


def gradients_and_saved_bytes(
    model: Mixture, work: Workspace, context: Callable[[], AbstractContextManager[None]]
) -> tuple[dict, int]:
    """Return the gradients of one step, and the bytes saved for its backward pass."""
    batch, saved = build_batch(model, work), {}
    model.zero_grad()
    torch.manual_seed(3)

    def record(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with context():
        with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
            loss = build_objective(model)(model(**batch), batch)
        loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, sum(saved.values())


@pytest.mark.parametrize("family", family_params("bert", "llama", "gemma2"))
def test_activation_checkpointing_gives_the_same_gradients_with_dropout(family: str, tmp_path: Path) -> None:
    model, work = trainable_mixture(family, tmp_path)
    model.bank.set_dropout(0.3)
    plain, plain_bytes = gradients_and_saved_bytes(model, work, nullcontext)
    checkpointed, checkpointed_bytes = gradients_and_saved_bytes(
        model, work, lambda: activation_checkpointing(model.backbone, model.bank.trunk_depth)
    )
    assert plain.keys() == checkpointed.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(
            checkpointed[name], grad, rtol=1e-4, atol=1e-6, msg=lambda message, name=name: f"{name}: {message}"
        )
    assert checkpointed_bytes < plain_bytes


def test_activation_checkpointing_restores_the_model(make_work: Make) -> None:
    model = random_mixture(load_backbone(make_work().run.backbone), make_work())
    layers = list(model.backbone.encoder.layer)
    before = [layer.forward for layer in layers], model.backbone.config.use_cache
    with activation_checkpointing(model.backbone, 1):
        assert layers[0].forward == before[0][0], "the trunk has no backward pass"
        assert layers[1].forward != before[0][1]
    assert ([layer.forward for layer in layers], model.backbone.config.use_cache) == before


@pytest.mark.parametrize("kind", ["labels", pytest.param("texts", marks=pytest.mark.slow)])
def test_run_with_activation_checkpointing_ends_with_the_same_weights(
    make_work: Make, tmp_path: Path, kind: str
) -> None:
    weights = []
    for recompute in (False, True):
        overrides = NO_DROPOUT | {"stages": {"recompute": recompute}}
        if kind == "labels":
            work = make_work(f"run-{recompute}", **overrides)
            for domain in ("news", "forum"):
                train_domain(work, domain)
        else:
            work = make_question_workspace(tmp_path / f"team-{recompute}", **overrides)
            pretrain(work)
        merge_experts(work)
        train_router(work)
        weights.append(load_file(work.out / "moe-joint" / "experts" / "news" / "adapter_model.safetensors"))
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, rtol=1e-3, atol=1e-5)
