"""Loading of the served model: verification, a trial prediction, and the description that `GET /v1/model` returns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experts.atomic_io import MANIFEST, read_manifest, sha256_of
from experts.cards import EXPERT_CARD
from experts.errors import Fault
from experts.expert_io import ADAPTER
from moe.checkpoints.file_names import README
from moe.inference.loading import is_language_model, load_language_model
from moe.inference.model_loader import ModelLoader, find_model_folder
from moe.integrity import verify
from moe.model.mixture import Mixture
from moe.serve.batching import Engine
from moe.serve.engine_classify import ClassifyEngine, ClassifyRequest
from moe.serve.engine_explain import ExplainEngine
from moe.serve.engine_generate import GenerateEngine


@dataclass(frozen=True)
class ModelLocation:
    """Where the model is loaded from, at the start and at every reload.

    Args:
        path: folder of a mixture, an expert or a run.
        sets: `backbone.KEY=VALUE` overrides of the model's settings, as for `moe infer --set`.
        token_budget: approximate number of tokens in a batch; None uses the engine's default.
    """

    path: Path
    sets: tuple[str, ...] = ()
    token_budget: int | None = None


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


def load_served_model(location: ModelLocation) -> ServedModel:
    """Verify and load a model, and make a trial prediction.

    Raises:
        Fault: if the model is damaged, cannot be loaded, changes while it is loading, or cannot predict.
    """
    folder = find_model_folder(location.path, location.sets)
    _check_integrity(folder)
    sha256 = sha256_of(folder / MANIFEST)
    if is_language_model(folder):
        served = _load_generator(folder, location, sha256)
    else:
        served = _load_classifier(folder, location, sha256)
    served = replace(served, card=_read_card(folder))
    if sha256_of(folder / MANIFEST) != sha256:
        raise Fault(f"a model at {folder} that does not change while it is loading", "a changed manifest", "retry")
    return served


def _read_card(folder: Path) -> str | None:
    path = folder / README
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _check_integrity(folder: Path) -> None:
    faults = [fault for report in verify(folder)["folders"] for fault in report["faults"]]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise Fault(f"an intact model at {folder}", f"{faults[0]}{more}", f"run moe verify {folder} for details")


def _load_classifier(folder: Path, location: ModelLocation, sha256: str) -> ServedModel:
    predictor = ModelLoader(folder, location.sets).load_torch()
    engine = ExplainEngine(ClassifyEngine(predictor, sha256, location.token_budget), predictor)
    (result,) = engine.run_batch([ClassifyRequest(("The first text.",))])
    if isinstance(result, BaseException):
        raise result
    info = _model_info(folder, sha256, predictor.model)
    info |= {"answers": "labels", "max_length": predictor.max_length, "calibrated": predictor.calibration is not None}
    info["calibrated_tasks"] = list(predictor.calibration.tasks) if predictor.calibration else []
    return ServedModel(engine, info)


def _load_generator(folder: Path, location: ModelLocation, sha256: str) -> ServedModel:
    if location.sets:
        raise Fault("no --set for a language model", location.sets[0], "omit --set")
    model, template = load_language_model(folder)
    engine = GenerateEngine(model, template, sha256)
    info = _model_info(folder, sha256, model)
    info |= {
        "answers": "language",
        "max_length": engine.context,
        "calibrated": False,
        "calibrated_tasks": [],
    }
    return ServedModel(engine, info)


def _model_info(folder: Path, sha256: str, model: Mixture) -> dict[str, Any]:
    backbone, identity = model.backbone, model.loaded_backbone.id
    return {
        "name": folder.name,
        "kind": "expert" if (folder / EXPERT_CARD).is_file() else "mixture",
        "sha256": sha256,
        "backbone": {
            "name": Path(identity.name).name,
            "revision": identity.revision,
            "sha256": identity.sha256,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "device": backbone.device.type,
        },
        "experts": _expert_info(folder, model),
        "labels": {
            domain.name: {task: list(labels) for task, labels in domain.tasks.items()}
            for domain in model.trained_domains
        },
        "targets": sorted(model.labels.target_tasks),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _expert_info(folder: Path, model: Mixture) -> dict[str, dict[str, Any]]:
    manifest = read_manifest(folder)
    hashes: Mapping[str, str] = {} if isinstance(manifest, Fault) else manifest
    domain_by_expert = {expert: domain.name for domain in model.domains for expert in domain.expert_names}
    return {
        name: {
            "domain": domain_by_expert.get(name),
            "rank": max(spec.rank for spec in attached.adapter.layers.values()),
            "sha256": hashes.get(f"experts/{name}/{ADAPTER}", hashes.get(ADAPTER)),
        }
        for name, attached in model.bank.adapters.items()
    }
