"""What the tests of exports share: tiny mixtures on disk, and what a mixture says when it is pinned."""

from pathlib import Path

import torch
from conftest import save_backbone, tiny_run
from mixtures import tokenize_texts, save_random_mixture
from torch import Tensor

from moe.export.selection import ExportSource, load_export_source
from moe.model.backbone import load_backbone
from moe.model.heads import pool
from moe.runs.workspace import Workspace


def opened(place: Path, family: str = "bert", shared: bool = False, heads: str = "per_expert", **backbone) -> ExportSource:
    """A tiny mixture, written and opened again."""
    folder = place / "backbone"
    if not folder.is_dir():
        save_backbone(folder, family)
    work = Workspace(tiny_run(folder, place, backbone=backbone), place / "run")
    made = save_random_mixture(place / "run" / "moe-joint", load_backbone(work.run.backbone), work, heads, shared)
    return load_export_source(made, ())


def pinned(source: ExportSource, name: str) -> tuple[dict[str, Tensor], Tensor]:
    """Logits by head and pooled state of the mixture held to one expert."""
    with torch.no_grad(), source.model.single_expert(name):
        out = source.model(**tokenize_texts(source.model))
    return out.logits, out.pooled


def pooled(model: torch.nn.Module, source: ExportSource) -> Tensor:
    """The pooled state of another program's model on the same texts."""
    given = tokenize_texts(source.model)
    with torch.no_grad():
        return pool(model(**given).last_hidden_state, given["attention_mask"], "mean")
