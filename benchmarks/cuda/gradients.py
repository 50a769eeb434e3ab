"""Gradients: one joint step under DAO, with the same weights and rows, on the CPU and on the GPU in fp32."""

from collections.abc import Iterator
from typing import Any

import torch
from models import Bench, load_in, token_batches
from torch import Tensor

from moe.config.stages import JOINT
from moe.model.mixture import Mixture
from moe.training.loss.global_batch import LossContext
from moe.training.loss.objective import Objective
from moe.training.trainer import set_trainable

LIMIT = 1e-3
"""Largest relative difference of a part's gradient, and of the loss."""


def measure_gradients(bench: Bench) -> Iterator[dict[str, Any]]:
    """Compare the gradients of experts, router and heads, by ‖difference‖ / ‖CPU‖, and the loss."""
    folder = bench.save_classifier("soft")
    fp32 = bench.precisions[0]
    loss, expected = joint_gradients(load_in(folder, bench.reference), bench)
    other_loss, measured = joint_gradients(load_in(folder, fp32), bench)
    assert expected.keys() == measured.keys(), "the same parameters have gradients"
    parts = {part_of(name) for name in expected}
    differences = {part: relative_difference(part, expected, measured) for part in sorted(parts)}
    largest = max(*differences.values(), abs(other_loss - loss) / loss)
    yield {"precision": fp32.name, "loss": other_loss, "loss_cpu": loss, **differences, "passed": largest <= LIMIT}


def joint_gradients(model: Mixture, bench: Bench) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of a joint step and the gradient of every trained parameter, on the CPU."""
    run = bench.run_settings()
    mode = set_trainable(model.train(), JOINT, None)
    objective = Objective(
        JOINT,
        run.losses,
        run.dao,
        labels=model.labels,
        domain_expert_mask=model.domain_expert_mask,
        seed=0,
        context=LossContext.of(model),
    )
    batch = next(token_batches(model, bench.texts))
    rows, device = len(batch["input_ids"]), model.backbone.device
    task = torch.arange(rows, device=device) % len(model.labels.tasks)  # (B,)
    labels = torch.randint(2, (rows,), generator=torch.Generator().manual_seed(0)).to(device)  # (B,)
    batch |= {"task": task, "domain": task, "label": labels, "score": labels * 2.0 - 1.0}
    objective.start_step()
    loss = objective(model(batch["input_ids"], batch["attention_mask"], mode=mode), batch)
    loss.backward()
    objective.finish_step()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients


def part_of(name: str) -> str:
    """Return the part of the mixture that a parameter belongs to."""
    return {"gate": "router", "heads": "heads"}.get(name.split(".")[0], "experts")


def relative_difference(part: str, expected: dict[str, Tensor], measured: dict[str, Tensor]) -> float:
    """Return ‖measured − expected‖ / ‖expected‖ over all parameters of a part."""
    names = [name for name in expected if part_of(name) == part]
    a, b = (torch.cat([gradients[name].flatten() for name in names]) for gradients in (expected, measured))
    return float((b - a).norm() / a.norm())
