"""Which mixture of a run is its best: `result.json`, and the folders that it may name.

Who is the best is decided in `moe.training.steps`; nothing heavy is imported here, since every answer asks.
"""

from pathlib import Path

from experts.atomic_io import read_json, write_json
from experts.errors import Fault
from moe.config.stages import INSTRUCT, JOINT, MERGED, WARMUP

RESULT = "result.json"
CANDIDATES = (MERGED, WARMUP.folder, JOINT.folder)


def best_model(run: Path) -> Path:
    """The mixture of a run folder that `result.json` names, else the last one written.

    Raises:
        Fault: when there is none yet, or `result.json` names another thing.
    """
    if (run / RESULT).is_file():
        content = read_json(run / RESULT)
        best = content.get("best") if isinstance(content, dict) else None
        if best not in CANDIDATES:
            known = ", ".join(CANDIDATES)
            raise Fault(f"one of {known} as best in {run / RESULT}", repr(best)[:80], "run moe train-router again")
        return run / best
    for name in reversed(CANDIDATES):
        if (run / name).is_dir():
            return run / name
    raise Fault(
        f"a mixture in {run}",
        "none",
        "run moe train-expert --all, moe merge and moe train-router first, or name a model folder",
    )


def default_model(run: Path) -> Path:
    """The mixture of a run folder that answers: the one that was taught questions, else its best.

    Raises:
        Fault: when there is none yet.
    """
    taught = run / INSTRUCT.folder
    return taught if taught.is_dir() else best_model(run)


def resolve_model_folder(named: Path) -> Path:
    """The model folder that a path means: that of the run whose folder it is, else itself.

    Raises:
        Fault: when the run's `result.json` names another thing.
    """
    a_run = (named / RESULT).is_file() or any((named / one).is_dir() for one in CANDIDATES)
    return default_model(named) if a_run else named


def write_result(run: Path, scores: dict[str, dict[str, float]], best: str, verdict: str) -> None:
    """Name the best of the three mixtures by validation."""
    write_json(run / RESULT, {"best": best, "verdict": verdict, "validation": scores})
