"""Opening the model folder that a user names: a mixture, or one expert alone.

What it is asked is `moe.inference.infer_command`'s and `moe.evaluation.evaluate`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from experts.errors import Fault
from experts.expert_io import CARD as EXPERT_CARD
from experts.expert_io import CONFIG
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import CARD as MIXTURE_CARD
from moe.checkpoints.mixture import read_card, read_mixture
from moe.config.messages import format_error
from moe.config.run import ConfigFault, RunSettings, find_config, load_run, apply_override, parse_run
from moe.config.yaml import read_yaml
from moe.inference.abstention import check_target_accuracy
from moe.inference.calibration import read_calibration
from moe.inference.predictor import Predictor, Routing, chunk_size_for
from moe.model.backbone import MIN_TOKEN_BUDGET, BackboneSettings, load_backbone
from moe.model.mixture import Mixture
from moe.runs.best import default_model, best_model


@dataclass(frozen=True)
class ModelLoader:
    """How a model is opened to answer texts; small, so that every process can be told it.

    Args:
        folder: of a mixture or an expert.
        sets: laid over its card, see `load_model`.
        routing, windows, tokens, abstain: the predictor's, see there.
    """

    folder: Path
    sets: tuple[str, ...] = ()
    routing: Routing = "soft"
    windows: bool = False
    batch_tokens: int | None = None
    abstain: float | None = None

    @property
    def chunk_size(self) -> int:
        """Texts that are handed to a process at once; known before the model is, so of the smallest budget."""
        return chunk_size_for(self.batch_tokens or MIN_TOKEN_BUDGET)

    def check(self) -> None:
        """Refuse what cannot work before anything heavy is loaded.

        Raises:
            Fault: for a routing that there is not, or an accuracy that cannot be wanted.
        """
        check_routing(self.routing)
        if self.abstain is not None:
            check_target_accuracy(self.abstain)

    def load(self) -> Predictor:
        """The model, ready to answer.

        Raises:
            Fault: as `load_model`; when its calibration is broken, or is none where it has to abstain.
        """
        calibration = read_calibration(self.folder)
        if self.abstain is not None and calibration is None and self.folder.is_dir():
            raise Fault(f"a calibrated model at {self.folder}, to abstain", "none", f"run moe calibrate {self.folder}")
        model, template, length = load_model(self.folder, self.sets)
        how = (self.routing, self.windows, self.batch_tokens, calibration, self.abstain)
        return Predictor(model, template, length, *how)


def select_model_folder(model: Path | None, config: Path | None, out: Path | None, sets: Sequence[str] | None) -> Path:
    """The model folder that is named, else the best of the run.

    Raises:
        Fault: when the run has none yet, or a setting is laid over a finished model that is not its backbone's.
    """
    if model is None:
        load_run(config, sets or ())
        return best_model(out or Path("runs") / find_config(config).stem)
    if others := [one for one in sets or () if not one.startswith("backbone.")]:
        raise Fault("--set backbone.KEY=VALUE for a model that is there", others[0], "leave it out")
    return model


def resolve_model_folder(named: Path, sets: Sequence[str] = ()) -> Path:
    """The model folder that a path means: itself, or the mixture that answers of the run that it holds.

    Raises:
        Fault: when there is no such folder or no model in it, or a setting is not the backbone's.
    """
    if not named.is_dir():
        raise Fault(f"a model's or a run's folder at {named}", "none", "name a folder that moe has trained")
    whole = any((named / card).is_file() for card in (EXPERT_CARD, MIXTURE_CARD))
    return select_model_folder(named if whole else default_model(named), None, None, sets)


def check_routing(routing: str) -> None:
    """Refuse a routing that there is not.

    Raises:
        Fault: naming the two.
    """
    if routing not in ("soft", "hard"):
        raise Fault("--routing soft or hard", repr(routing), "name one of them")


def load_model(folder: Path, sets: Sequence[str] = ()) -> tuple[Mixture, str, int]:
    """A mixture, or one expert alone, ready to answer; with its template and the tokens it reads.

    Args:
        sets: `backbone.dtype=…`, `backbone.quantization=…`, `backbone.max_length=…` are laid over the card's;
            layers are compiled only where `backbone.compile=true` is among them.

    Raises:
        Fault: when the folder is missing, broken, or made for another backbone.
    """
    return _opened(folder, sets, language=False)


def load_any_model(folder: Path, sets: Sequence[str] = ()) -> tuple[Mixture, str, int]:
    """As `load_model`, of a language model too.

    Raises:
        Fault: as `load_model`.
    """
    return _opened(folder, sets, language=True)


def _opened(folder: Path, sets: Sequence[str], language: bool) -> tuple[Mixture, str, int]:
    if (folder / EXPERT_CARD).is_file():
        model, run = load_single_expert(folder, lambda settings: override_backbone(settings, sets))
        _refuse_language(run.language is not None and not language, folder)
        return model, run.template, run.backbone.max_length
    card = read_card(folder)
    _refuse_language(card.language and not language, folder)
    settings = override_backbone(card.backbone_settings, sets)
    backbone = None if settings == card.backbone_settings else load_backbone(settings, lm_head=card.language)
    model, card = read_mixture(folder, backbone)
    return model, card.template, settings.max_length


def load_language_model(folder: Path) -> tuple[Mixture, str]:
    """A language model's mixture, or one expert alone, and its template.

    Raises:
        Fault: when the folder holds neither, or not whole.
    """
    if (folder / EXPERT_CARD).is_file():
        model, run = load_single_expert(folder)
        return model, run.template
    model, card = read_mixture(folder)
    return model, card.template


def is_language_model(folder: Path) -> bool:
    """Whether a mixture or an expert writes, and gives no labels; told by its card alone.

    Raises:
        Fault: when the folder holds neither, or not whole.
    """
    if (folder / EXPERT_CARD).is_file():
        return parse_run(read_yaml(folder / CONFIG), str(folder / CONFIG)).language is not None
    return read_card(folder).language


def _refuse_language(language: bool, folder: Path) -> None:
    if language:
        raise Fault("a model that gives labels", f"a language model's at {folder}", "name one trained on labelled rows")


def override_backbone(settings: BackboneSettings, sets: Sequence[str]) -> BackboneSettings:
    """A model's own backbone settings with `backbone.KEY=VALUE` over them; uncompiled unless that is among them.

    Raises:
        Fault: for a setting that there is not.
    """
    raw: dict[str, object] = {"backbone": settings.model_dump() | {"compile": False}}
    for one in sets:
        if one.startswith("backbone."):
            apply_override(raw, one)
    try:
        return BackboneSettings.model_validate(raw["backbone"])
    except ValidationError as error:
        raise ConfigFault(
            "--set", [format_error(one, ("backbone",), model=RunSettings) for one in error.errors()]
        ) from error
