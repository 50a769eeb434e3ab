"""An ablation from a finished run to its table: every row judged on the run's test rows, beside the full mixture.

Which rows there are is `moe.ablation.variants`', how they are shown `moe.ablation.view`'s.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from experts.atomic_io import write_json
from experts.errors import Fault
from moe.ablation.asked import asked_as
from moe.ablation.found import Found, beside
from moe.ablation.language_model import ablate_language
from moe.ablation.retrain import FOLDER, retrain
from moe.ablation.variants import Answered, Retrained, Row, answered_rows, chosen, retrained_rows
from moe.ablation.view import draw
from moe.checkpoints.mixture import MixtureCard, read_card, read_mixture
from moe.console.progress import say
from moe.evaluation.datasets import test_rows
from moe.evaluation.evaluate import answers_by_task, evaluate
from moe.model.mixture import Mixture
from moe.runs.best import RESULT as VERDICT
from moe.runs.best import answering_model, best_model
from moe.runs.workspace import Workspace

RESULT, CHART = "ablation.json", "ablation.png"


def rows_of(work: Workspace, model: Path | None = None) -> list[Row]:
    """Every row that a run can have; no weight is loaded.

    Raises:
        Fault: when the run has no mixture, or the folder is none.
    """
    card = read_card(model or _own_model(work))
    roles: dict[str, list[str]] = {}
    for domain in card.domains:
        roles.setdefault(domain.role, []).extend(domain.experts)
    rows = answered_rows(card.routed, card.shared, card.language, roles)
    return [*rows, *([] if card.language else retrained_rows(work.run))]


def _own_model(work: Workspace) -> Path:
    return best_model(work.out) if work.run.language is None else answering_model(work.out)


def ablate(work: Workspace, model: Path | None = None, only: Sequence[str] = (), again: bool = False) -> dict[str, Any]:
    """Judge the rows of a run and write `ablation/ablation.json` and its chart.

    Args:
        model: a mixture's folder, the run's best by default.
        only: the rows to do; all by default.
        again: train the rows that need it; else only those are done that need none.

    Returns:
        `model`, `texts`, and `rows`: `name`, `kind`, `says`, `tasks` and `mean` (accuracy and macro-F1), and, but for
        the full mixture's, `difference` from it: `accuracy` and `macro_f1`, each with a 95 % interval; all in [−1, 1].
        Of a language model also `perplexity` on each domain's held-out text; what the run has no data for is left out.

    Raises:
        Fault: when there is no mixture, a row is unknown, or training goes wrong.
        Interrupted: on Ctrl-C in training, after a checkpoint.
    """
    folder = model or _own_model(work)
    rows = chosen(rows_of(work, folder), only, again)
    if again and model is None and not (work.out / VERDICT).is_file():
        missing = "one whose router is not trained to its end"
        raise Fault(
            f"a finished run at {work.out} beside retrained rows", missing, "run moe train-router --resume first"
        )
    mixture, card = read_mixture(folder)
    if card.language:
        content = ablate_language(work, mixture, card.template, rows)
        return _written(work, content | {"model": str(folder)})
    texts = test_rows(work, mixture, None, None, None, ())
    answered = [row for row in rows if isinstance(row, Answered)]
    found = [_answer(mixture, card, texts, row, f"{i} of {len(rows)}") for i, row in enumerate(answered, 1)]
    del mixture
    for i, row in enumerate((one for one in rows if isinstance(one, Retrained)), len(answered) + 1):
        say(f"{i} of {len(rows)}: {row.name}: {row.says}, trained from {row.start}")
        other, its_card = read_mixture(retrain(work, row))
        found.append(_judge(other, its_card, texts, Answered(row.name, row.says), "retrained"))
    rows_found = [beside(*one, *found[0]) for one in found]
    return _written(work, {"model": str(folder), "texts": len(texts), "rows": rows_found})


def _written(work: Workspace, content: dict[str, Any]) -> dict[str, Any]:
    content["chart"] = str(draw(content, work.out / FOLDER / CHART))
    write_json(work.out / FOLDER / RESULT, content)
    return content


def _answer(mixture: Mixture, card: MixtureCard, texts: Dataset, row: Answered, place: str) -> Found:
    say(f"{place}: {row.name}: {row.says}")
    with asked_as(mixture, row):
        return _judge(mixture, card, texts, row, "answered")


def _judge(mixture: Mixture, card: MixtureCard, texts: Dataset, row: Answered, kind: str) -> Found:
    """A row's figures, and what it said of every labelled text."""
    length = card.backbone_settings.max_length
    report, judged = evaluate(mixture, texts, card.template, length, row.routing, row.pin, quiet=False)
    if not report["tasks"]:
        raise Fault("labelled test rows", f"{len(texts)} without a label", "give the run's test split labels")
    short = {task: {name: one[name] for name in ("accuracy", "macro_f1")} for task, one in report["tasks"].items()}
    mean = {name: report["mean"][name] for name in ("accuracy", "macro_f1")}
    said = answers_by_task([one for one in judged if one.true is not None], mixture.labels)
    return {"name": row.name, "kind": kind, "says": row.says, "tasks": short, "mean": mean}, said
