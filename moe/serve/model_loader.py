"""Opening the model that is served: verified, loaded, asked once; and what is told of it.

When another takes its place is `moe.serve.model_manager`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experts.atomic_io import MANIFEST, read_manifest, sha256_of
from experts.errors import Fault
from experts.expert_io import ADAPTER
from experts.expert_io import CARD as EXPERT_CARD
from moe.inference.loading import ModelLoader, find_model_folder, is_language_model, load_language_model
from moe.integrity import verify
from moe.model.mixture import Mixture
from moe.serve.batching import Engine
from moe.serve.engine_classify import ClassifyRequest, ClassifyEngine
from moe.serve.engine_explain import ExplainEngine
from moe.serve.engine_generate import GenerateEngine


@dataclass(frozen=True)
class ModelLocation:
    """Where the model is read from, now and when it is read again.

    Args:
        path: a mixture's, an expert's or a run's folder.
        sets: laid over its card, as `moe infer` does.
        budget: tokens, about, of a batch; None is the engine's own.
    """

    path: Path
    sets: tuple[str, ...] = ()
    budget: int | None = None


@dataclass(frozen=True)
class ServedModel:
    """A model that answers, and what is told of it (`moe.serve.schemas.ModelInfo`)."""

    engine: Engine
    told: dict[str, Any]

    @property
    def sha256(self) -> str:
        """By which answers name it."""
        return str(self.told["sha256"])


def load_served_model(place: ModelLocation) -> ServedModel:
    """Verify and load a model, and ask it once.

    Raises:
        Fault: when it is not whole, cannot be loaded, or does not answer.
    """
    folder = find_model_folder(place.path, place.sets)
    _refuse_broken(folder)
    sha256 = sha256_of(folder / MANIFEST)
    served = _language(folder, place, sha256) if is_language_model(folder) else _labels(folder, place, sha256)
    if sha256_of(folder / MANIFEST) != sha256:
        raise Fault(f"a model at {folder} that stays as it is while it is read", "another", "ask again")
    return served


def _refuse_broken(folder: Path) -> None:
    faults = [fault for one in verify(folder)["folders"] for fault in one["faults"]]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise Fault(f"a whole model at {folder}", f"{faults[0]}{more}", f"see moe verify {folder}")


def _labels(folder: Path, place: ModelLocation, sha256: str) -> ServedModel:
    predictor = ModelLoader(folder, place.sets).load()
    engine = ExplainEngine(ClassifyEngine(predictor, sha256, place.budget))
    _tried(engine.answer([ClassifyRequest(("The first text.",))]))
    extra = {"answers": "labels", "max_length": predictor.max_length, "calibrated": predictor.calibration is not None}
    return ServedModel(engine, _told(folder, sha256, predictor.model) | extra)


def _language(folder: Path, place: ModelLocation, sha256: str) -> ServedModel:
    if place.sets:
        raise Fault("no --set for a language model", place.sets[0], "leave it out")
    model, template = load_language_model(folder)
    engine = GenerateEngine(model, template, sha256)
    extra = {"answers": "language", "max_length": engine.context, "calibrated": False}
    return ServedModel(engine, _told(folder, sha256, model) | extra)


def _tried(results: Sequence[Any]) -> None:
    for one in results:
        if isinstance(one, BaseException):
            raise one


def _told(folder: Path, sha256: str, model: Mixture) -> dict[str, Any]:
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
        "experts": _experts(folder, model),
        "labels": {
            domain.name: {task: list(labels) for task, labels in domain.tasks.items()} for domain in model.trained_domains
        },
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _experts(folder: Path, model: Mixture) -> dict[str, dict[str, Any]]:
    hashes = read_manifest(folder)
    known: Mapping[str, str] = {} if isinstance(hashes, Fault) else hashes
    owner = {name: domain.name for domain in model.domains for name in domain.expert_names}
    return {
        name: {
            "domain": owner.get(name),
            "rank": max(touch.rank for touch in one.adapter.layers.values()),
            "sha256": known.get(f"experts/{name}/{ADAPTER}", known.get(ADAPTER)),
        }
        for name, one in model.bank.adapters.items()
    }
