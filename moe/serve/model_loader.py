"""Loading of the served model: verification, a trial prediction, and the description that `GET /v1/model` returns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from experts.atomic_io import MANIFEST, read_manifest, sha256_of
from experts.cards import EXPERT_CARD
from experts.errors import Fault
from experts.expert_io import ADAPTER, ExpertCard, read_expert_card
from experts.lora import LoraSpec
from experts.reading import each_file_once
from moe.checkpoints.expert import SHARED_NAME
from moe.checkpoints.file_names import README
from moe.checkpoints.mixture import parse_mixture_card
from moe.inference.load import LoadOptions, load, load_torch
from moe.inference.load_mixture import load_mixture
from moe.inference.predictor import Predictor
from moe.inference.torch_predictor import TorchPredictor
from moe.integrity import verify
from moe.model.backbone_pool import BackbonePool
from moe.model.mixture import Mixture
from moe.runs.model_ref import ModelRef, resolve
from moe.serve.batching import Engine
from moe.serve.engine_classify import ClassifyEngine, ClassifyRequest
from moe.serve.engine_explain import ExplainEngine
from moe.serve.engine_generate import GenerateEngine
from moe.serve.json_logs import adopt_library_loggers


@dataclass(frozen=True)
class ServedModel:
    """A loaded model.

    Args:
        info: its description, the fields of `moe.serve.schemas.ModelInfo` except `card` and `limits`.
        card: its model card in Markdown; None if its folder has none.
    """

    engine: Engine
    info: dict[str, Any]
    card: str | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of the model's manifest."""
        return str(self.info["sha256"])


def load_served_model(
    model: Path | None,
    options: LoadOptions = LoadOptions(),
    token_budget: int | None = None,
    backbones: BackbonePool | None = None,
) -> ServedModel:
    """Find, verify and load a model, and make a trial prediction.

    Args:
        model: see `resolve`, which is called at the start and at every reload.
        options: for a classifier; a service runs long, so that the runtime's speed matters more than its start.
        token_budget: approximate number of tokens in a batch; None uses the engine's default.
        backbones: shares the backbone's weights with other models of this process.

    Raises:
        Fault: if the model is damaged, cannot be loaded, changes while it is loading, or cannot predict.
    """
    options = replace(options, large=True)
    options.check()
    ref = resolve(model)
    folder = ref.folder
    with each_file_once(ref.records):
        _check_integrity(folder)
        sha256 = sha256_of(folder / MANIFEST)
    if ref.language:
        served = _load_generator(ref, options, sha256, backbones)
    else:
        served = _load_classifier(ref, options, sha256, token_budget, backbones)
    served = replace(served, card=_read_card(folder))
    adopt_library_loggers()
    if sha256_of(folder / MANIFEST) != sha256:
        raise Fault(f"a model at {folder} that does not change while it is loading", "a changed manifest", "retry")
    return served


def _read_card(folder: Path) -> str | None:
    path = folder / README
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _check_integrity(folder: Path) -> None:
    faults = [fault for check in verify(folder).folders for fault in check.faults]
    if faults:
        number = "a fault" if len(faults) == 1 else f"{len(faults)} faults, the first one"
        first = faults[0].rstrip(".")
        raise Fault(f"an intact model at {folder}", f"{number}: {first}", f"run moe verify {folder} for details")


def _load_classifier(
    ref: ModelRef, options: LoadOptions, sha256: str, token_budget: int | None, backbones: BackbonePool | None
) -> ServedModel:
    predictor = load(ref, options, backbones)
    engine = ExplainEngine(
        ClassifyEngine(predictor, sha256, token_budget),
        partial(_load_torch, ref, options, predictor, sha256, backbones),
    )
    (result,) = engine.run_batch([ClassifyRequest(("The first text.",))])
    if isinstance(result, BaseException):
        raise result
    if isinstance(predictor, TorchPredictor):
        info = _model_info(ref, sha256, predictor.model)
    else:
        info = _graph_info(ref, sha256, predictor)
    info |= {"answers": "labels", "max_length": predictor.max_length, "calibrated": predictor.calibration is not None}
    info["calibrated_tasks"] = list(predictor.calibration.tasks) if predictor.calibration else []
    return ServedModel(engine, info)


def _load_torch(
    ref: ModelRef, options: LoadOptions, predictor: Predictor, sha256: str, backbones: BackbonePool | None
) -> TorchPredictor:
    """Return the served model with PyTorch, which a graph's predictor does not have.

    Raises:
        Fault: if the folder holds another model by now.
    """
    if isinstance(predictor, TorchPredictor):
        return predictor
    model = load_torch(ref, options, backbones)
    adopt_library_loggers()  # of transformers, which is imported here
    if sha256_of(ref.folder / MANIFEST) != sha256:
        raise Fault("the served model in its folder, to explain with", "a newer one", "reload the service")
    return model


def _load_generator(ref: ModelRef, options: LoadOptions, sha256: str, backbones: BackbonePool | None) -> ServedModel:
    if options.sets:
        raise Fault("no --set for a language model", options.sets[0], "omit --set")
    loaded = load_mixture(ref, language=True, backbones=backbones)
    engine = GenerateEngine(loaded.model, loaded.template, sha256)
    info = _model_info(ref, sha256, loaded.model)
    info |= {
        "answers": "language",
        "max_length": engine.context,
        "calibrated": False,
        "calibrated_tasks": [],
    }
    return ServedModel(engine, info)


def _model_info(ref: ModelRef, sha256: str, model: Mixture) -> dict[str, Any]:
    backbone, identity = model.backbone, model.loaded_backbone.id
    return {
        "name": ref.folder.name,
        "kind": ref.kind,
        "sha256": sha256,
        "backbone": {
            "name": Path(identity.name).name,
            "revision": identity.revision,
            "sha256": identity.sha256,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "device": backbone.device.type,
        },
        "experts": _expert_info(ref.folder, model),
        "labels": {
            domain.name: {task: list(labels) for task, labels in domain.tasks.items()}
            for domain in model.trained_domains
        },
        "targets": sorted(model.labels.target_tasks),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _graph_info(ref: ModelRef, sha256: str, predictor: Predictor) -> dict[str, Any]:
    """Return what `_model_info` does, of a model that is not loaded with PyTorch."""
    folder, spec, hashes = ref.folder, predictor.spec, _file_hashes(ref.folder)
    card = read_expert_card(folder / EXPERT_CARD) if ref.kind == "expert" else parse_mixture_card(folder)
    domain_by_expert = {expert: domain.name for domain in spec.domains for expert in domain.experts}
    layers = _expert_layers(folder, card) if isinstance(card, ExpertCard) else card.layers
    return {
        "name": folder.name,
        "kind": ref.kind,
        "sha256": sha256,
        "backbone": {
            "name": Path(card.backbone.name).name,
            "revision": card.backbone.revision,
            "sha256": card.backbone.sha256,
            "dtype": "float32",
            "device": "cpu",
        },
        "experts": {
            name: {
                "domain": domain_by_expert.get(name),
                "rank": max(layer.rank for layer in specs.values()),
                "sha256": hashes.get(f"experts/{name}/{ADAPTER}", hashes.get(ADAPTER)),
            }
            for name, specs in layers.items()
        },
        "labels": {
            domain.name: {task: list(spec.tasks[task].labels) for task in spec.tasks_of(domain.name)}
            for domain in spec.trained_domains
        },
        "targets": sorted(task for task, task_spec in spec.tasks.items() if task_spec.target),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _expert_layers(folder: Path, card: ExpertCard) -> dict[str, dict[str, LoraSpec]]:
    """Return the adapted layers of a single expert, and of the shared expert that it was trained on."""
    layers = {card.name: card.layers}
    if card.shared:
        layers[SHARED_NAME] = read_expert_card(folder.parent / SHARED_NAME / EXPERT_CARD).layers
    return layers


def _file_hashes(folder: Path) -> Mapping[str, str]:
    manifest = read_manifest(folder)
    return {} if isinstance(manifest, Fault) else manifest


def _expert_info(folder: Path, model: Mixture) -> dict[str, dict[str, Any]]:
    hashes = _file_hashes(folder)
    domain_by_expert = {expert: domain.name for domain in model.domains for expert in domain.expert_names}
    return {
        name: {
            "domain": domain_by_expert.get(name),
            "rank": max(spec.rank for spec in attached.adapter.layers.values()),
            "sha256": hashes.get(f"experts/{name}/{ADAPTER}", hashes.get(ADAPTER)),
        }
        for name, attached in model.bank.adapters.items()
    }
