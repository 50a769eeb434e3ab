"""A mixture of random experts on a tiny backbone, for tests of what a mixture does."""

from pathlib import Path

import torch

from experts.adapter import fresh_adapter
from experts.lora import LayerMap, LoraSettings
from moe.backbone import Backbone
from moe.data.batches import Batch, Collator
from moe.folder import DomainCard, MixtureCard, build_mixture, write_mixture
from moe.heads import HeadSettings
from moe.model import Mixture
from moe.objective import Objective
from moe.stages import JOINT, LossSettings
from moe.workspace import Workspace, versions
from router.dao import DAOSettings
from router.gate import GateSettings

TEXTS = ["profit rose today", "moon bags fell again", "the bank kept sales with orders"]


def tokens(model: Mixture) -> dict[str, torch.Tensor]:
    out = model.source.tokenizer(TEXTS, padding=True, return_tensors="pt")
    return {"input_ids": out["input_ids"], "attention_mask": out["attention_mask"]}


def batch_of(model: Mixture, work: Workspace) -> Batch:
    collate = Collator(model.source.tokenizer, "{text}", 16, model.labels, [d.name for d in model.domains])
    rows = work.rows("train")
    return collate([rows[i] for i in (0, 1, 2, len(rows) - 1, len(rows) - 2, len(rows) - 3)])


def objective(model: Mixture, stage=JOINT, **losses) -> Objective:
    return Objective(stage, LossSettings(**losses), DAOSettings(), model.labels, model.owners, seed=0)


def mixture(
    backbone: Backbone, work: Workspace, gate: str = "soft", heads: str = "per_expert", experts: int = 1
) -> Mixture:
    """A mixture of random, trained-looking experts beside this backbone."""
    return _made(backbone, work, gate, heads, experts)[0]


def written(folder: Path, backbone: Backbone, work: Workspace) -> Path:
    """The folder of such a mixture."""
    model, card = _made(backbone, work, "soft", "per_expert", 1)
    write_mixture(folder, model, card, "", {})
    return folder


def _made(backbone: Backbone, work: Workspace, gate: str, heads: str, experts: int) -> tuple[Mixture, MixtureCard]:
    domains = [
        DomainCard(name=name, role=name, experts=names, tasks={name: ("negative", "neutral", "positive")})
        for name, names in (("news", ("news",)), ("forum", ("forum",) if experts == 1 else ("forum-1", "forum-2")))
    ]
    layers, depth = LayerMap.of(backbone.model), work.run.backbone.trunk_depth
    routed = [name for domain in domains for name in domain.experts]
    ranks = dict(zip(routed, (4, 2, 3), strict=False))
    adapters = {name: fresh_adapter(layers, LoraSettings(r=rank, dropout=0.0), depth) for name, rank in ranks.items()}
    card = MixtureCard(
        stage="test",
        backbone=backbone.id,
        backbone_settings=work.run.backbone,
        template="{text}",
        domains=tuple(domains),
        shared=(),
        layers={name: one.layers for name, one in adapters.items()},
        gate=GateSettings(kind=gate),
        heads=HeadSettings(merge=heads),
        polarity=True,
        seed=1,
        versions=versions(),
    )
    model = build_mixture(card, backbone, {name: one.content for name, one in adapters.items()})
    torch.manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.expert_parameters().items():
            if "lora_B" in key:
                parameter.normal_(std=0.3)
        for head in model.heads.parameters():
            head.add_(torch.randn_like(head) * 0.1)
    return model.eval(), card
