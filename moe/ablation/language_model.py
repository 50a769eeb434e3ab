"""The rows of a language model's ablation: its test questions, and the perplexity of every domain's held-out text.

Which rows there are is `moe.ablation.variants`'.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experts.errors import Fault
from moe.ablation.asked import asked_as
from moe.ablation.found import Found, beside
from moe.ablation.variants import Answered, Row
from moe.console.progress import say
from moe.model.mixture import Mixture
from moe.qa.evaluate import Sitting, answers_of, examine, questions_of, report_of
from moe.qa.scoring import Asked
from moe.runs.workspace import Workspace
from moe.training.lm_dataset import Shelf
from moe.training.stage import Lesson


def ablate_language(work: Workspace, mixture: Mixture, template: str, rows: Sequence[Row]) -> dict[str, Any]:
    """`texts` and `rows` of the ablation, as `moe.ablation.run.ablate` tells them.

    Raises:
        Fault: when the run has neither questions nor corpora, or their files are bad.
    """
    asked = questions_of(work) if any(work.run.questions_of(name) for name in work.run.domains) else []
    corpora = all(one.corpus for one in work.run.domains.values())
    if not asked and not corpora:
        raise Fault("questions or corpora to measure on", "neither in the config", "give the domains some")
    held_out = Shelf(work, mixture).routed() if corpora else None
    found: list[Found] = []
    answered = [row for row in rows if isinstance(row, Answered)]
    for i, row in enumerate(answered, 1):
        say(f"{i} of {len(answered)}: {row.name}: {row.says}")
        with asked_as(mixture, row):
            found.append(_row(mixture, template, row, asked, held_out))
    return {"texts": len(asked), "rows": [beside(*one, *found[0]) for one in found]}


def _row(mixture: Mixture, template: str, row: Answered, asked: Sequence[Asked], held_out: Lesson | None) -> Found:
    told: dict[str, Any] = {"name": row.name, "kind": "answered", "says": row.says, "tasks": {}, "mean": None}
    if held_out is not None and row.routing == "soft" and not row.pin:
        told["perplexity"] = _named(held_out.evaluate())
    if not asked:
        return told, {}
    sitting = Sitting(hard=row.routing == "hard", pin=row.pin)
    marked = examine(mixture, template, asked, sitting, quiet=False)
    report = report_of(marked, sitting)
    tasks = {task: _short(one) for task, one in report["tasks"].items()}
    mean = {"accuracy": report["mean"]["accuracy"]}
    mean["macro_f1"] = report["mean"].get("macro_f1", mean["accuracy"])
    return told | {"tasks": tasks, "mean": mean}, answers_of(marked)


def _short(one: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy and macro-F1; of free answers, which have no classes, right and wrong are all there is."""
    return {"accuracy": one["accuracy"], "macro_f1": one.get("macro_f1", one["accuracy"])}


def _named(figures: Mapping[str, float]) -> dict[str, float]:
    return {key.removeprefix("perplexity_"): figures[key] for key in figures if key.startswith("perplexity_")}
