"""The best mixture of a run, as recorded in `result.json`.

Every prediction needs this module, so it imports nothing heavy.
"""

from pathlib import Path

from experts.atomic_io import read_json, restore_folder, write_json
from experts.errors import Fault
from moe.runs.layout import INSTRUCTED, MIXTURES, RESULT


def best_model(run: Path) -> Path:
    """Return the mixture of a run folder that `result.json` names, else the one of the last stage.

    Raises:
        Fault: if there is none yet, or `result.json` names anything else.
    """
    _restore(run)
    if (run / RESULT).is_file():
        content = read_json(run / RESULT)
        best = content.get("best") if isinstance(content, dict) else None
        if best not in MIXTURES:
            candidates = ", ".join(MIXTURES)
            raise Fault(f"one of {candidates} as best in {run / RESULT}", repr(best)[:80], "run moe train-router again")
        return run / str(best)
    for name in reversed(MIXTURES):
        if (run / name).is_dir():
            return run / name
    raise Fault(
        f"a mixture in {run}",
        "none",
        "run moe train-expert --all, moe merge and moe train-router first, or use a model folder",
    )


def _restore(run: Path) -> None:
    """Restore mixtures that a killed process was about to replace."""
    for name in (*MIXTURES, INSTRUCTED):
        restore_folder(run / name)


def has_mixture(run: Path) -> bool:
    """Whether a run folder holds a mixture."""
    _restore(run)
    return (run / RESULT).is_file() or any((run / name).is_dir() for name in MIXTURES)


def default_model(run: Path) -> Path:
    """Return the mixture of a run folder to use by default: the instruction-tuned one, else the best one.

    Raises:
        Fault: if there is none yet.
    """
    _restore(run)
    instructed = run / INSTRUCTED
    return instructed if instructed.is_dir() else best_model(run)


def write_result(run: Path, scores: dict[str, dict[str, float]], best: str, verdict: str) -> None:
    """Write `result.json`.

    Args:
        scores: validation metrics by mixture.
        best: name of the best mixture.
        verdict: a sentence for people.
    """
    write_json(run / RESULT, {"best": best, "verdict": verdict, "validation": scores})
