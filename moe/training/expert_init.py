"""The start of an expert that is to join a mixture: the average of that mixture's nearest experts (`expert_init`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from torch import Tensor

from experts.adapter_bank import PREFIX
from experts.atomic_io import MANIFEST, sha256_of
from experts.cards import EXPERTS, without_folders
from experts.errors import Fault
from experts.expert_io import ADAPTER, InitOrigin
from experts.lora_delta import LowRankUpdate, sum_updates
from experts.safetensors_io import load_tensors
from moe.checkpoints.file_names import HEADS
from moe.checkpoints.mixture import check_same_backbone, mixture_digest, read_mixture
from moe.checkpoints.mixture_card import MixtureCard
from moe.config.expert_init import ExpertInitSettings
from moe.console import info
from moe.data.sampler import subsample_per_domain
from moe.inference.torch_predictor import TorchPredictor
from moe.merging.head_init import TrainedHeads, init_heads
from moe.model.heads import Heads
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace


@dataclass(frozen=True)
class ExpertStart:
    """The average of some experts of a mixture.

    Args:
        update: mean of their updates, at the sum of their ranks.
        heads: by expert, its trained heads.
        origin: the mixture and the experts, for the card.
    """

    update: LowRankUpdate
    heads: Mapping[str, list[TrainedHeads]]
    origin: InitOrigin

    def load_into(self, model: Mixture, name: str) -> None:
        """Load the average into the fresh expert `name`, and the mean heads of known labels.

        At a lower rank it is the closest update of that rank, layer by layer; at a higher one, the added rows of A stay
        as they are and the added columns of B are 0. Layers that the average lacks stay fresh.
        """
        weights: dict[str, Tensor] = {k: p.detach().clone() for k, p in model.bank.adapter_parameters(name).items()}
        for path, spec in model.bank.adapters[name].layers.items():
            if path not in self.update.layers:
                continue
            update = LowRankUpdate(self.update.rank, self.update.scaling, {path: self.update.layers[path]})
            a, b = update.compressed_to(spec.rank).layers[path]  # (R', D_in), (D_out, R')
            fresh_a, fresh_b = (weights[f"{PREFIX}{path}.lora_{kind}.weight"] for kind in "AB")
            fresh_a[: a.shape[0]] = a.to(fresh_a)
            fresh_b[:, : b.shape[1]] = (b * (self.update.scaling / spec.scaling)).to(fresh_b)
        model.bank.load_adapter(name, weights)
        if isinstance(model.heads, Heads):
            init_heads(model.heads, self.heads, model.labels)


def load_expert_start(work: Workspace, domain: str, settings: ExpertInitSettings) -> ExpertStart | None:
    """Return what an expert of a domain starts from; None if the mixture has that domain.

    Raises:
        Fault: if the mixture is broken or a language model, or does not fit the run's backbone or shared expert.
    """
    folder = resolve(Path(settings.mixture)).folder
    model, card = read_mixture(folder)
    if any(known.name == domain for known in card.domains):
        return None
    _check_fits(work, model, card, folder)
    names = nearest_experts(work, model, domain, settings)
    updates = [model.bank.low_rank_update(name) for name in names]
    mean = sum_updates([replace(update, scaling=update.scaling / len(updates)) for update in updates])
    per_expert = card.heads.merge == "per_expert"
    tensors = load_tensors(folder / HEADS)
    heads = {}
    for name in names if per_expert else names[:1]:
        prefix = f"experts.{name}." if per_expert else ""
        own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        heads[name] = [TrainedHeads(folder / HEADS, own, model.labels.heads, model.labels.tasks, model.labels.kinds)]
    tasks = {task for known in card.domains if set(known.experts) & set(names) for task in known.tasks}
    origin = InitOrigin(
        source=f"the average of {', '.join(names)} in {without_folders(settings.mixture)}",
        sha256=mixture_digest(folder),
        mixture=sha256_of(folder / MANIFEST),
        data_sha256={key: value for key, value in card.data_sha256.items() if key in tasks},
    )
    info(f"{domain}: starts from {origin.source}")
    return ExpertStart(mean, heads, origin)


def _check_fits(work: Workspace, model: Mixture, card: MixtureCard, folder: Path) -> None:
    """Check that the mixture's experts mean the same on the run's backbone and shared expert."""
    if card.language:
        raise Fault("a mixture of classifiers as expert_init.mixture", f"a language model at {folder}", "remove it")
    check_same_backbone(card.backbone, model.loaded_backbone.id, str(folder))
    run = work.run.backbone
    if (run.name, run.trunk_depth) != (card.backbone_settings.name, card.backbone_settings.trunk_depth):
        raise Fault(
            f"the backbone {run.name} with trunk_depth {run.trunk_depth} in {folder}",
            f"{card.backbone_settings.name} with trunk_depth {card.backbone_settings.trunk_depth}",
            "set the backbone of the mixture, or another expert_init.mixture",
        )
    own = work.shared_folder
    shared = sha256_of(own / ADAPTER) if own is not None and own.is_dir() else None
    theirs = next((sha256_of(folder / EXPERTS / name / ADAPTER) for name in card.shared), None)
    if shared != theirs:
        raise Fault(
            f"a mixture on the run's shared expert ({shared[:12] if shared else 'none'}) at {folder}",
            f"one on {theirs[:12] if theirs else 'none'}",
            "train the expert on the mixture's shared expert, or remove expert_init",
        )


def nearest_experts(work: Workspace, model: Mixture, domain: str, settings: ExpertInitSettings) -> list[str]:
    """Return the names of the routed experts nearest to a new domain, the nearest first."""
    if settings.by == "gates":
        predictor = _predictor(work, model, RoutingMode(), states=False)
        similarity = predictor.score(_texts(work, domain, settings.rows)).routing_weights.mean(0)  # (E,)
    else:
        similarity = _prototype_similarity(work, model, domain, settings.rows)  # (E,)
    order = np.argsort(-similarity, kind="stable")[: settings.nearest]
    return [model.bank.routed_experts[i] for i in order]


def _prototype_similarity(work: Workspace, model: Mixture, domain: str, rows: int) -> np.ndarray:
    """Cosine of the mean states without experts of a new domain and of each expert's domain, (E,), about their mean."""
    known = [its.name for its in model.domains]
    if missing := [name for name in known if name not in work.run.domains]:
        raise Fault(
            f"rows of the mixture's domains {', '.join(known)} in the config, for their prototypes",
            f"no {missing[0]}",
            "add it to the config, or set expert_init.by to gates",
        )
    predictor = _predictor(work, model, RoutingMode(without=tuple(model.bank.adapters)), states=True)
    prototypes = []
    for name in (domain, *known):
        states = predictor.score(_texts(work, name, rows)).states
        assert states is not None
        prototypes.append(states.mean(0))
    centered = np.stack(prototypes) - np.mean(prototypes, axis=0)  # (1 + domains, D)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True).clip(min=1e-12)
    by_domain = dict(zip(known, centered[1:] @ centered[0], strict=True))
    owner = {expert: its.name for its in model.domains for expert in its.expert_names}
    return np.array([by_domain[owner[expert]] for expert in model.bank.routed_experts])


def _predictor(work: Workspace, model: Mixture, mode: RoutingMode, *, states: bool) -> TorchPredictor:
    return TorchPredictor(model, work.run.template, work.run.backbone.resolved_length, mode=mode, states=states)


def _texts(work: Workspace, domain: str, rows: int) -> Sequence[str]:
    sample: Dataset = subsample_per_domain(work.rows("train", [domain]), rows, work.run.seed)
    return list(sample["text"])
