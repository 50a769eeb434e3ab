"""Points drawn by Optuna's TPE instead of a grid; the study is kept as a journal of JSON lines and goes on from there.

What a point is worth is told by whoever asks for it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experts.atomic_io import os_errors_as_faults
from moe.extras import require
from moe.sweep.grid import SweepPlan, Values, as_yaml, range_end, short_hash
from moe.sweep.settings import SearchSettings

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

JOURNAL = "study.journal"
Objective = Callable[[Values], float | None]
ReportScore = Callable[[float | None], None]


def run_search(plan: SweepPlan, out: Path, worth: Objective) -> None:
    """Try as many points as the sweep asks for, those of earlier calls counted in.

    Args:
        worth: trains and measures a point and gives what is to be made large; None where it failed.

    Raises:
        Fault: when Optuna is not installed, or the journal cannot be written.
        Interrupted: on Ctrl-C; the trial under way is taken up by the next call.
    """
    settings = plan.settings.search
    assert settings is not None
    study = _study(plan, out)
    for values, tell in _left_over(plan, study):
        tell(worth(values))
    while len(_done(study)) < settings.trials:
        trial = study.ask()
        _tell(study, trial.number, worth(_draw(plan, trial)))


def completed_values(plan: SweepPlan, out: Path) -> list[Values]:
    """The values of every trial so far that did not fail."""
    return [_values(plan, trial.params) for trial in _done(_study(plan, out)) if trial.value is not None]


def _study(plan: SweepPlan, out: Path) -> "Study":
    optuna = require("optuna", "sweep")
    storages = require("optuna.storages", "sweep")
    journal = require("optuna.storages.journal", "sweep")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with os_errors_as_faults(out):
        out.mkdir(parents=True, exist_ok=True)
        storage = storages.JournalStorage(journal.JournalFileBackend(str(out / JOURNAL)))
        study = optuna.create_study(storage=storage, study_name=_name(plan), direction="maximize", load_if_exists=True)
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # a study that goes on draws what is new
    return study


def _name(plan: SweepPlan) -> str:
    """One journal holds a study for each thing searched, so that no trial is told of another config's."""
    said = plan.settings.model_dump(mode="json", exclude={"run": True, "search": {"trials"}})
    corners = [one.key for one in plan.points(plan.corners())]
    return short_hash([said, list(plan.sets), corners])


def _done(study: "Study") -> list[Any]:
    from optuna.trial import TrialState  # as above

    return [one for one in study.trials if one.state in (TrialState.COMPLETE, TrialState.FAIL)]


def _left_over(plan: SweepPlan, study: "Study") -> list[tuple[Values, ReportScore]]:
    """Trials that were under way when an earlier call was stopped; those not drawn to the end are given up."""
    done = {one.number for one in _done(study)}
    found: list[tuple[Values, ReportScore]] = []
    for one in study.trials:
        if one.number in done:
            continue
        if len(one.params) < len(_drawn(plan)):
            _tell(study, one.number, None)
        else:
            found.append((_values(plan, one.params), partial(_tell, study, one.number)))
    return found


def _tell(study: "Study", trial: int, value: float | None) -> None:
    from optuna.trial import TrialState  # as above

    study.tell(trial, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)


def _drawn(plan: SweepPlan) -> list[str]:
    """The names that Optuna draws: the ranges, and the keys of `over` with more than one value."""
    assert plan.settings.search is not None
    return [*plan.settings.search.ranges, *(key for key, values in plan.settings.over.items() if len(values) > 1)]


def _draw(plan: SweepPlan, trial: "Trial") -> Values:
    settings = plan.settings.search
    assert settings is not None
    params: Values = {key: _number(settings, key, trial) for key in settings.ranges}
    for key, values in plan.settings.over.items():
        if len(values) > 1:
            params[key] = trial.suggest_categorical(key, _words(values))
    return _values(plan, params)


def _number(settings: SearchSettings, key: str, trial: "Trial") -> float | int:
    one = settings.ranges[key]
    if one.whole:
        return trial.suggest_int(key, int(one.low), int(one.high), log=one.log)
    return trial.suggest_float(key, float(range_end(one, "low")), float(range_end(one, "high")), log=one.log)


def _words(values: Sequence[Any]) -> list[str]:
    """Choices as text, which is all that a journal keeps of them."""
    return [as_yaml(value) for value in values]


def _values(plan: SweepPlan, params: Values) -> Values:
    """Drawn parameters as settings."""
    found: Values = {}
    for (key, values), axis in zip(plan.settings.over.items(), plan.axes(), strict=True):
        found |= axis[_words(values).index(params[key]) if len(values) > 1 else 0]
    assert plan.settings.search is not None
    return found | {key: params[key] for key in plan.settings.search.ranges}
