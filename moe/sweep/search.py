"""Search with Optuna's TPE instead of a grid; the study is a journal of JSON lines, from which it resumes."""

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
    from optuna.trial import Trial as OptunaTrial

JOURNAL = "study.journal"
ScoreFunction = Callable[[Values], float | None]
ReportScore = Callable[[float | None], None]


def run_search(plan: SweepPlan, out: Path, score: ScoreFunction) -> None:
    """Run trials until the sweep's number of trials is reached, including those of earlier calls.

    Args:
        score: trains and evaluates a combination of values and returns the score to maximise; None if it failed.

    Raises:
        Fault: if Optuna is not installed, or the journal cannot be written.
        Interrupted: on Ctrl-C; the next call resumes the current trial.
    """
    settings = plan.settings.search
    assert settings is not None
    study = _open_study(plan, out)
    for values, report in _unfinished_trials(plan, study):
        report(score(values))
    while len(_ended_trials(study)) < settings.trials:
        trial = study.ask()
        _report_score(study, trial.number, score(_sample_values(plan, trial)))


def completed_values(plan: SweepPlan, out: Path) -> list[Values]:
    """Return the values of all earlier trials that did not fail."""
    trials = _ended_trials(_open_study(plan, out))
    return [_to_values(plan, trial.params) for trial in trials if trial.value is not None]


def _open_study(plan: SweepPlan, out: Path) -> "Study":
    optuna = require("optuna", "sweep")
    storages = require("optuna.storages", "sweep")
    journal = require("optuna.storages.journal", "sweep")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with os_errors_as_faults(out):
        out.mkdir(parents=True, exist_ok=True)
        storage = storages.JournalStorage(journal.JournalFileBackend(str(out / JOURNAL)))
        study: Study = optuna.create_study(
            storage=storage, study_name=_study_name(plan), direction="maximize", load_if_exists=True
        )
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # a resumed study samples new values
    return study


def _study_name(plan: SweepPlan) -> str:
    """Hash what is searched: one journal holds a study for each config, so trials of another config are not reused."""
    settings = plan.settings.model_dump(
        mode="json", by_alias=True, exclude={"run": True, "folds": True, "search": {"trials"}}
    )
    corners = [trial.key for trial in plan.trials(plan.corners())]
    return short_hash([settings, list(plan.sets), corners])


def _ended_trials(study: "Study") -> list[Any]:
    from optuna.trial import TrialState

    return [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.FAIL)]


def _unfinished_trials(plan: SweepPlan, study: "Study") -> list[tuple[Values, ReportScore]]:
    """Return the trials that an earlier call left unfinished; those not fully sampled are marked as failed."""
    ended = {trial.number for trial in _ended_trials(study)}
    unfinished: list[tuple[Values, ReportScore]] = []
    for trial in study.trials:
        if trial.number in ended:
            continue
        if len(trial.params) < len(_sampled_names(plan)):
            _report_score(study, trial.number, None)
        else:
            unfinished.append((_to_values(plan, trial.params), partial(_report_score, study, trial.number)))
    return unfinished


def _report_score(study: "Study", trial: int, score: float | None) -> None:
    from optuna.trial import TrialState

    study.tell(trial, score, state=TrialState.FAIL if score is None else TrialState.COMPLETE)


def _sampled_names(plan: SweepPlan) -> list[str]:
    """Return the names that Optuna samples: the ranges, and the keys of `over` with more than one value."""
    assert plan.settings.search is not None
    return [*plan.settings.search.ranges, *(key for key, values in plan.settings.over.items() if len(values) > 1)]


def _sample_values(plan: SweepPlan, trial: "OptunaTrial") -> Values:
    settings = plan.settings.search
    assert settings is not None
    params: Values = {key: _sample_number(settings, key, trial) for key in settings.ranges}
    for key, values in plan.settings.over.items():
        if len(values) > 1:
            params[key] = trial.suggest_categorical(key, _choices(values))
    return _to_values(plan, params)


def _sample_number(settings: SearchSettings, key: str, trial: "OptunaTrial") -> float | int:
    range_ = settings.ranges[key]
    if range_.integer:
        return trial.suggest_int(key, int(range_.low), int(range_.high), log=range_.log)
    low, high = float(range_end(range_, "low")), float(range_end(range_, "high"))
    return trial.suggest_float(key, low, high, log=range_.log)


def _choices(values: Sequence[Any]) -> list[str]:
    """Return values as text, the only form in which a journal stores choices."""
    return [as_yaml(value) for value in values]


def _to_values(plan: SweepPlan, params: Values) -> Values:
    """Convert sampled parameters to values by setting."""
    sampled: Values = {}
    for (key, values), axis in zip(plan.settings.over.items(), plan.axes(), strict=True):
        sampled |= axis[_choices(values).index(params[key]) if len(values) > 1 else 0]
    assert plan.settings.search is not None
    return sampled | {key: params[key] for key in plan.settings.search.ranges}
