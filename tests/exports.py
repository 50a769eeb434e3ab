"""Helpers of the export tests: tiny mixtures on disk, and the outputs to compare."""

from pathlib import Path
from typing import Any

import torch
from conftest import save_backbone, tiny_run
from mixtures import save_random_mixture, tokenize_texts
from torch import Tensor

from moe.export.selection import ExportSource, load_export_source
from moe.model.backbone import load_backbone
from moe.model.heads import HeadSettings, pool
from moe.runs.workspace import Workspace


def save_and_load_mixture(
    folder: Path,
    family: str = "bert",
    shared: bool = False,
    heads: str | HeadSettings = "per_expert",
    domains: dict[str, Any] | None = None,
    **backbone: Any,
) -> ExportSource:
    """Write a tiny mixture and load it for export; `domains` override the domains' settings."""
    if not (folder / "backbone").is_dir():
        save_backbone(folder / "backbone", family)
    run = tiny_run(folder / "backbone", folder, backbone=backbone, domains=domains or {})
    work = Workspace(run, folder / "run")
    loaded = load_backbone(work.run.backbone)
    return load_export_source(save_random_mixture(folder / "run" / "moe-joint", loaded, work, heads, shared), ())


def pinned_outputs(source: ExportSource, expert: str) -> tuple[dict[str, Tensor], Tensor]:
    """Return logits by head and pooled hidden state of the mixture restricted to one expert."""
    with torch.no_grad(), source.model.single_expert(expert) as mode:
        out = source.model(**tokenize_texts(source.model), mode=mode)
    return out.logits, out.pooled


def pooled_output(model: torch.nn.Module, source: ExportSource) -> Tensor:
    """Return the pooled hidden state of an exported model on the same texts."""
    inputs = tokenize_texts(source.model)
    with torch.no_grad():
        return pool(model(**inputs).last_hidden_state, inputs["attention_mask"], "mean")
