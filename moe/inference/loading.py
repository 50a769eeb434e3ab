"""Loading of a model folder, which holds a mixture or a single expert."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from experts.errors import Fault
from experts.expert_io import CARD as EXPERT_CARD
from experts.expert_io import CONFIG
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import CARD as MIXTURE_CARD
from moe.checkpoints.mixture import read_card, read_mixture
from moe.config.messages import format_error
from moe.config.overrides import apply_override
from moe.config.run import ConfigFault, RunSettings, find_config, load_run, parse_run
from moe.config.yaml import read_yaml
from moe.inference.abstention import check_target_accuracy
from moe.inference.calibration import read_calibration
from moe.inference.predictor import Predictor, Routing, chunk_size_for
from moe.model.backbone import MIN_TOKEN_BUDGET, BackboneSettings, load_backbone
from moe.model.mixture import Mixture
from moe.runs.best import best_model, default_model


@dataclass(frozen=True)
class ModelLoader:
    """A model folder with the options to load it; small enough to be sent to worker processes.

    Args:
        folder: of a mixture or a single expert.
        sets: overrides of its backbone settings, see `load_model`.
        routing: see `Predictor`.
        windows: see `Predictor`.
        batch_tokens: see `Predictor`.
        abstain: see `Predictor`.
    """

    folder: Path
    sets: tuple[str, ...] = ()
    routing: Routing = "soft"
    windows: bool = False
    batch_tokens: int | None = None
    abstain: float | None = None

    @property
    def chunk_size(self) -> int:
        """Number of texts sent to a worker at a time; the model is not loaded yet, so for the smallest token budget."""
        return chunk_size_for(self.batch_tokens or MIN_TOKEN_BUDGET)

    def check(self) -> None:
        """Check the options, before anything slow is loaded.

        Raises:
            Fault: for an unknown routing, or a target accuracy outside 0 to 1.
        """
        check_routing(self.routing)
        if self.abstain is not None:
            check_target_accuracy(self.abstain)

    def load(self) -> Predictor:
        """Load the model.

        Raises:
            Fault: as `load_model`; if its calibration is broken, or it has none and `abstain` is set.
        """
        calibration = read_calibration(self.folder)
        if self.abstain is not None and calibration is None and self.folder.is_dir():
            raise Fault(
                f"a calibrated model at {self.folder} to abstain with",
                "no calibration",
                f"run moe calibrate {self.folder}",
            )
        model, template, max_length = load_model(self.folder, self.sets)
        return Predictor(
            model,
            template,
            max_length,
            routing=self.routing,
            windows=self.windows,
            batch_tokens=self.batch_tokens,
            calibration=calibration,
            abstain=self.abstain,
        )


def select_model_folder(model: Path | None, config: Path | None, out: Path | None, sets: Sequence[str] | None) -> Path:
    """The given model folder; without one, the best mixture of the run.

    Raises:
        Fault: if the run has no mixture yet, or `sets` overrides a setting outside `backbone` of a given model.
    """
    if model is None:
        load_run(config, sets or ())
        return best_model(out or Path("runs") / find_config(config).stem)
    if others := [override for override in sets or () if not override.startswith("backbone.")]:
        raise Fault("--set backbone.KEY=VALUE for a trained model", others[0], "remove this --set")
    return model


def find_model_folder(path: Path, sets: Sequence[str] = ()) -> Path:
    """The model folder at a path: the folder itself, or the default mixture of a run folder.

    Raises:
        Fault: if there is no such folder or no model in it, or `sets` overrides a setting outside `backbone`.
    """
    if not path.is_dir():
        raise Fault(f"the folder of a model or a run at {path}", "no folder", "use a folder that moe has trained")
    is_model = any((path / card).is_file() for card in (EXPERT_CARD, MIXTURE_CARD))
    return select_model_folder(path if is_model else default_model(path), None, None, sets)


def check_routing(routing: str) -> Routing:
    """Check a routing mode and return it.

    Raises:
        Fault: if it is neither `soft` nor `hard`.
    """
    if routing not in ("soft", "hard"):
        raise Fault("--routing soft or hard", repr(routing), "use one of them")
    return cast(Routing, routing)


def load_model(folder: Path, sets: Sequence[str] = ()) -> tuple[Mixture, str, int]:
    """Load a mixture or a single expert for classification.

    Args:
        sets: overrides of the backbone settings on the model's card, such as `backbone.dtype=…`,
            `backbone.quantization=…` or `backbone.max_length=…`. Layers are compiled only with `backbone.compile=true`.

    Returns:
        the model, its prompt template, and its maximal length in tokens.

    Raises:
        Fault: if the folder is missing, broken, made for another backbone, or holds a language model.
    """
    return _load(folder, sets, language=False)


def load_any_model(folder: Path, sets: Sequence[str] = ()) -> tuple[Mixture, str, int]:
    """Load a mixture or a single expert as `load_model` does; language models too.

    Raises:
        Fault: if the folder is missing, broken, or made for another backbone.
    """
    return _load(folder, sets, language=True)


def _load(folder: Path, sets: Sequence[str], language: bool) -> tuple[Mixture, str, int]:
    if (folder / EXPERT_CARD).is_file():
        model, run = load_single_expert(folder, lambda settings: override_backbone(settings, sets))
        _check_classifier(run.language is None or language, folder)
        return model, run.template, run.backbone.max_length
    card = read_card(folder)
    _check_classifier(not card.language or language, folder)
    settings = override_backbone(card.backbone_settings, sets)
    backbone = None if settings == card.backbone_settings else load_backbone(settings, lm_head=card.language)
    model, card = read_mixture(folder, backbone)
    return model, card.template, settings.max_length


def load_language_model(folder: Path) -> tuple[Mixture, str]:
    """Load a mixture or a single expert over a language model, and its prompt template.

    Raises:
        Fault: if the folder holds neither, or is incomplete.
    """
    if (folder / EXPERT_CARD).is_file():
        model, run = load_single_expert(folder)
        return model, run.template
    model, card = read_mixture(folder)
    return model, card.template


def is_language_model(folder: Path) -> bool:
    """Whether a model folder holds a language model rather than a classifier; reads its card only.

    Raises:
        Fault: if the folder holds no model, or is incomplete.
    """
    if (folder / EXPERT_CARD).is_file():
        return parse_run(read_yaml(folder / CONFIG), str(folder / CONFIG)).language is not None
    return read_card(folder).language


def _check_classifier(allowed: bool, folder: Path) -> None:
    if not allowed:
        raise Fault("a classification model", f"a language model at {folder}", "use a model trained on labelled rows")


def override_backbone(settings: BackboneSettings, sets: Sequence[str]) -> BackboneSettings:
    """Apply the `backbone.KEY=VALUE` overrides to a model's backbone settings.

    `compile` is off unless it is overridden; overrides of other settings are ignored.

    Raises:
        Fault: for an unknown setting or an invalid value.
    """
    raw: dict[str, object] = {"backbone": settings.model_dump() | {"compile": False}}
    for override in sets:
        if override.startswith("backbone."):
            apply_override(raw, override)
    try:
        return BackboneSettings.model_validate(raw["backbone"])
    except ValidationError as error:
        raise ConfigFault(
            "--set", [format_error(problem, ("backbone",), model=RunSettings) for problem in error.errors()]
        ) from error
