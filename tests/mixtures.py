"""Mixtures of random experts on tiny backbones, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experts.adapter import build_adapter
from experts.lora import LayerMap, LoraSettings
from moe.checkpoints.mixture import build_mixture, write_mixture
from moe.checkpoints.mixture_card import DomainCard, MixtureCard
from moe.config.stages import JOINT, LossSettings, Stage
from moe.data.collator import Batch, Collator
from moe.model.backbone import Backbone, BackboneSettings, load_backbone
from moe.model.heads import HeadSettings
from moe.model.lm_head import LMHead
from moe.model.mixture import Mixture
from moe.runs.versions import package_versions
from moe.runs.workspace import Workspace
from moe.training.loss.objective import Objective
from router.gate_settings import GateSettings
from router.prior import StatePrototype
from router.registry import DAOSettings

TEXTS = ["profit rose today", "moon bags fell again", "the bank kept sales with orders"]


def tokenize_texts(model: Mixture) -> dict[str, torch.Tensor]:
    """Return the token ids and attention mask of `TEXTS`."""
    out = model.loaded_backbone.tokenizer(TEXTS, padding=True, return_tensors="pt")
    return {"input_ids": out["input_ids"], "attention_mask": out["attention_mask"]}


def lm_head(model: Mixture) -> LMHead:
    """Return the language-model head of a mixture that has one."""
    head = model.loaded_backbone.lm_head
    assert head is not None
    return head


def build_batch(model: Mixture, work: Workspace) -> Batch:
    """Return a batch of the first and last three training rows."""
    collate = Collator(model.loaded_backbone.tokenizer, "{text}", 16, model.labels, [d.name for d in model.domains])
    rows = work.rows("train")
    return collate([rows[i] for i in (0, 1, 2, len(rows) - 1, len(rows) - 2, len(rows) - 3)])


def build_objective(model: Mixture, stage: Stage = JOINT, **losses: Any) -> Objective:
    """Return the objective of a stage for a model, with these loss settings."""
    return Objective(
        stage,
        LossSettings(**{"smoothing": 0.0} | losses),
        DAOSettings(),
        model.labels,
        model.domain_expert_mask,
        seed=0,
    )


def random_mixture(
    backbone: Backbone,
    work: Workspace,
    gate: str = "soft",
    heads: str = "per_expert",
    experts: int = 1,
    shared: bool = False,
) -> Mixture:
    """Return a mixture of random experts for the domains news and forum; forum has `experts` experts."""
    return _mixture_and_card(backbone, work, gate, heads, experts, shared)[0]


def save_random_mixture(
    folder: Path,
    backbone: Backbone,
    work: Workspace,
    heads: str | HeadSettings = "per_expert",
    shared: bool = False,
    gate: str | GateSettings = "soft",
    experts: int = 1,
    targets: bool = False,
) -> Path:
    """Save such a mixture and return its folder; with `targets`, news has a second task about entities."""
    model, card = _mixture_and_card(
        backbone, work, gate=gate, heads=heads, experts=experts, shared=shared, targets=targets
    )
    write_mixture(folder, model, card, "", {})
    return folder


def random_lm_mixture(
    folder: Path, kind: str = "soft", unit: str = "text", trunk_depth: int = 1, shared: bool = False
) -> Mixture:
    """Return a language model's mixture of random experts: one of role macro and two of role micro.

    Args:
        folder: the backbone's folder.
        kind: kind of gate.
        unit: unit of routing, `text` or `token`.
        trunk_depth: number of first layers without experts.
        shared: add a shared expert.
    """
    return _lm_mixture_and_card(folder, kind, unit, trunk_depth, shared)[0]


def save_random_lm_mixture(folder: Path, backbone: Path) -> Path:
    """Save such a mixture and return its folder."""
    model, card = _lm_mixture_and_card(backbone, kind="soft", unit="text", trunk_depth=1)
    write_mixture(folder, model, card, "", {})
    return folder


def _lm_mixture_and_card(
    folder: Path, kind: str, unit: str, trunk_depth: int, shared: bool = False
) -> tuple[Mixture, MixtureCard]:
    settings = BackboneSettings(name=str(folder), dtype="float32", trunk_depth=trunk_depth)
    backbone = load_backbone(settings, lm_head=True)
    domains = tuple(
        DomainCard(name=name, role=role, experts=(name,), tasks={})
        for name, role in (("macro", "macro"), ("calls", "micro"), ("filings", "micro"))
    )
    layers = LayerMap.from_model(backbone.model)
    shared_names = ("shared",) if shared else ()
    names = (*(domain.name for domain in domains), *shared_names)
    adapters = {name: build_adapter(layers, LoraSettings(r=4, dropout=0.0), trunk_depth) for name in names}
    card = MixtureCard(
        stage="test",
        backbone=backbone.id,
        backbone_settings=settings,
        template="{text}",
        domains=domains,
        shared=shared_names,
        layers={name: adapter.layers for name, adapter in adapters.items()},
        gate=GateSettings.model_validate({"kind": kind, "unit": unit, "init_std": 1.0}),
        heads=HeadSettings(),
        polarity=False,
        language=True,
        seed=1,
        versions=package_versions(),
    )
    model = build_mixture(card, backbone, {name: adapter.peft_config for name, adapter in adapters.items()})
    assert model.gate is not None
    torch.manual_seed(0)
    with torch.no_grad():
        _randomize_experts(model)
        for parameter in model.gate.net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return model.eval(), card


def _mixture_and_card(
    backbone: Backbone,
    work: Workspace,
    gate: str | GateSettings,
    heads: str | HeadSettings,
    experts: int,
    shared: bool,
    targets: bool = False,
) -> tuple[Mixture, MixtureCard]:
    forum: Sequence[str] = ("forum",) if experts == 1 else ("forum-1", "forum-2")
    domains = [
        DomainCard(name=name, role=name, experts=names, tasks={name: ("negative", "neutral", "positive")})
        for name, names in (("news", ("news",)), ("forum", forum))
    ]
    declared = {domain.name: domain for domain in work.run.domain_list()}
    for i, name in enumerate(("news", "forum")):
        if kinds := declared[name].kinds if name in declared else {}:
            labels = {task: tuple(names) for task, names in declared[name].tasks.items()}
            domains[i] = domains[i].model_copy(update={"tasks": labels, "kinds": kinds})
    if targets:
        tasks = {"news": ("negative", "neutral", "positive"), "entities": ("negative", "neutral", "positive")}
        domains[0] = domains[0].model_copy(update={"tasks": tasks, "target_tasks": ("entities",)})
    layers, depth = LayerMap.from_model(backbone.model), work.run.backbone.trunk_depth
    routed = [name for domain in domains for name in domain.experts]
    ranks = dict(zip(routed, (4, 2, 3), strict=False)) | ({"shared": 5} if shared else {})
    adapters = {name: build_adapter(layers, LoraSettings(r=rank, dropout=0.0), depth) for name, rank in ranks.items()}
    card = MixtureCard(
        stage="test",
        backbone=backbone.id,
        backbone_settings=work.run.backbone,
        template="{text}",
        domains=tuple(domains),
        shared=("shared",) if shared else (),
        layers={name: adapter.layers for name, adapter in adapters.items()},
        gate=GateSettings(queries=0, kind=gate) if isinstance(gate, str) else gate,
        heads=HeadSettings(merge=heads) if isinstance(heads, str) else heads,
        polarity=True,
        seed=1,
        versions=package_versions(),
    )
    model = build_mixture(card, backbone, {name: adapter.peft_config for name, adapter in adapters.items()})
    torch.manual_seed(0)
    with torch.no_grad():
        _randomize_experts(model)
        for head in model.heads.parameters():
            head.add_(torch.randn_like(head) * 0.1)
        _randomize_prior(model)
    return model.eval(), card


def _randomize_prior(model: Mixture) -> None:
    """Draw the scores of a router that did not start at random; a part of all texts is unfamiliar to its prototypes."""
    if model.gate is None or model.gate.prior is None:
        return
    for parameter in model.gate.prior.parameters():
        parameter.normal_(std=0.2)
    if (prototypes := model.gate.prior.prototypes) is not None:
        experts, dim = prototypes.means.shape
        one_each = torch.zeros(0, dim), torch.zeros(0), torch.tensor(1.0), torch.tensor(10.0)
        prototypes.fill([StatePrototype(torch.randn(dim) * 0.2, *one_each) for _ in range(experts)])
        prototypes.threshold.fill_(0.0)


def _randomize_experts(model: Mixture) -> None:
    """Draw random B matrices, so that the experts change the backbone's output as trained ones do."""
    for key, parameter in model.expert_parameters().items():
        if "lora_B" in key:
            parameter.normal_(std=0.3)
