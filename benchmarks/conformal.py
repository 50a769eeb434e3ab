"""Conformal label sets in domain and under shift: coverage and size per task and domain, beside abstaining.

Run: `python benchmarks/conformal.py FOLDER`. A mixture of all domains of the config is calibrated on their validation
rows and measured on their test rows. Then each domain whose three-way tasks another domain's task can answer is left
out of all training and of the calibration: the sets and thresholds of that other task are measured on its test rows.
Routers are prototypes (no training); each row is answered in the labels of its own task. It trains what is missing,
resumes where it stopped, and prints the results so far as Markdown.

`--ready` trains nothing: the ready mixture, which has no macro domain, is calibrated on its validation rows of sentfin
and twitter_fin_news, and measured on their test rows, on fpb (news from elsewhere) and on gold_headlines (macro).
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from left_out import LeftOut, answerable
from predictions import append_line, read_lines
from quality import CONFIG
from row_limits import limit_rows

from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import MERGED
from moe.data.sampler import subsample_per_domain
from moe.evaluation.calibration.calibrate import collect_logits, fit_calibration
from moe.evaluation.calibration.conformal import label_set_report, with_label_sets
from moe.inference.calibration import TaskCalibration
from moe.inference.load_mixture import load_mixture
from moe.inference.torch_predictor import TorchPredictor
from moe.results.calibration import LabelSetReport, SetCoverage
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace

IN_DOMAIN = "none"
"""Name of the case without a left-out domain."""
READY = "ready"
"""Name of the cases of the ready mixture."""
READY_CONFIG = CONFIG.parent.parent / "ready.yaml"
READY_TASKS = {"news": "headlines", "forum": "tweets"}
READY_SHIFTED = {"fpb": "headlines", "gold": "headlines"}
"""Tasks of the config that the ready mixture was not trained on, and the task that answers them."""
COLUMNS = (
    "left out",
    "task or domain",
    "validation rows",
    "test rows",
    "coverage (95 %)",
    "labels per set",
    "one label",
    "answered by abstaining",
    "accuracy of these (95 %)",
)


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--out", type=Path, default=Path("runs/conformal"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--level", type=float, default=0.9, help="of the sets, and target accuracy of abstaining")
    parser.add_argument("--left-out", nargs="*", help="domains to leave out; default: each that others can answer")
    parser.add_argument("--most-rows", type=int, help="most training and most validation rows of a task")
    parser.add_argument("--test-rows", type=int, default=1500, help="most test rows of a domain")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument("--ready", action="store_true", help="measure the ready mixture, and train nothing")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    if args.most_rows:
        limits = limit_rows(args.config, max_train_rows=args.most_rows, max_validation_rows=args.most_rows)
        args.sets = [*limits, *args.sets]
    run, path = load_run(args.config, [f"data.folder={args.data}", *args.sets]), args.out / "results.jsonl"
    cases = (IN_DOMAIN, *(run.domains if args.left_out is None else args.left_out))
    finished = {line["left_out"] for line in read_lines(path)}
    for name in () if args.print_only else (READY,) if args.ready else cases:
        if name not in finished:
            reports = measure_ready(args) if args.ready else measure(LeftOut(args, args.seed, name), args)
            for left_out, report in list(reports):
                append_line(path, {"left_out": left_out, "report": report.model_dump(mode="json")})
    print_results(read_lines(path))


def measure(case: LeftOut, args: argparse.Namespace) -> Iterator[tuple[str, LabelSetReport]]:
    """Train a mixture, and yield the case's name and report; nothing if no task can answer the left-out domain."""
    in_domain = case.domain == IN_DOMAIN
    renamed = {} if in_domain else answerable(case)
    if not in_domain and not renamed:
        return
    work = case.merged("centroid", "none", 0)
    model, card = read_mixture(work.out / MERGED)
    predictor = TorchPredictor(model, card.template, card.backbone_settings.resolved_length)
    answered = {task: task for task in model.labels.tasks} if in_domain else renamed
    known, source = [domain.name for domain in model.domains], case.workspace("old")
    rows = subsample_per_domain(source.rows("test", known if in_domain else [case.domain]), args.test_rows, 13)
    calibrations = fit(predictor, work.rows("validation", known), list(answered.values()), args.level)
    yield case.domain, test(predictor, calibrations, rows, answered, source.run.label_space().domain_by_task)


def measure_ready(args: argparse.Namespace) -> Iterator[tuple[str, LabelSetReport]]:
    """Yield the reports of the ready mixture: on its own tasks, and on data that it was not trained on."""
    model, template, max_length = load_mixture(resolve(READY))
    predictor = TorchPredictor(model, template, max_length)
    run = load_run(READY_CONFIG, [f"data.folder={args.data}"])
    domains = {
        name: run.domains[name].model_copy(update={"tasks": {task: run.tasks_of(name)[task]}, "unlabelled": ()})
        for name, task in READY_TASKS.items()
    }
    own = Workspace(run.model_copy(update={"domains": domains}), args.out / READY)
    others = Workspace(load_run(args.config, [f"data.folder={args.data}"]), args.out / "others")
    tasks = {task: task for task in READY_TASKS.values()}
    calibrations = fit(predictor, own.rows("validation"), list(tasks), args.level)
    rows = subsample_per_domain(own.rows("test"), args.test_rows, 13)
    yield READY, test(predictor, calibrations, rows, tasks, model.labels.domain_by_task)
    domain_by_task = others.run.label_space().domain_by_task
    for task, other in READY_SHIFTED.items():
        rows = of_tasks(others.rows("test", [domain_by_task[task]]), [task])
        rows = subsample_per_domain(rows, args.test_rows, 13)
        yield f"{READY}: {task}", test(predictor, calibrations, rows, {task: other}, domain_by_task)


def fit(predictor: TorchPredictor, rows: Dataset, tasks: Sequence[str], level: float) -> dict[str, TaskCalibration]:
    """Fit temperatures, thresholds and sets of some tasks on validation rows."""
    validation = collect_logits(predictor, of_tasks(rows, tasks), title="validation", quiet=True)
    return with_label_sets({task: fit_calibration(its) for task, its in validation.items()}, validation, level)


def test(
    predictor: TorchPredictor,
    fitted: Mapping[str, TaskCalibration],
    rows: Dataset,
    answered: Mapping[str, str],
    domain_by_task: Mapping[str, str],
) -> LabelSetReport:
    """Measure sets on test rows.

    Args:
        answered: by task of the rows the task of the model that answers them.
        domain_by_task: domains of the rows' tasks.
    """
    logits = {}
    for task, other in answered.items():
        own = of_tasks(rows, [task])
        own = own.remove_columns("task").add_column("task", [other] * len(own))
        (its,) = collect_logits(predictor, own, title="test", quiet=True).values()
        logits[task] = its.cooled(fitted[other].temperature)
    report = label_set_report({task: fitted[other] for task, other in answered.items()}, logits, domain_by_task)
    assert report is not None
    return report


def of_tasks(rows: Dataset, tasks: Sequence[str]) -> Dataset:
    """Return the rows of some tasks."""
    return rows.select([i for i, task in enumerate(rows["task"]) if task in tasks])


def print_results(lines: Sequence[dict[str, Any]]) -> None:
    """Print a row per task, and per domain of several tasks."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for line in lines:
        report = LabelSetReport.model_validate(line["report"])
        for name, its in report.tasks.items():
            print(f"| {line['left_out']} | {name} | {' | '.join(cells(its))} |")
        for name, its in report.domains.items():
            print(f"| {line['left_out']} | **{name}** | {' | '.join(cells(its))} |")


def cells(its: SetCoverage) -> Iterator[str]:
    """Return the cells of a task or domain."""
    yield f"{its.validation_rows:,}" if its.validation_rows else ""
    yield f"{its.rows:,}"
    yield with_interval(its.coverage, its.coverage_interval)
    yield f"{its.mean_size:.2f}"
    yield f"{its.single:.0%}"
    yield "no threshold" if its.abstain is None else f"{its.abstain.coverage:.0%}"
    yield "" if its.abstain is None else with_interval(its.abstain.accuracy, its.abstain.accuracy_interval)


def with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    """Format a share with its interval, as the documents do."""
    if value is None or interval is None:
        return ""
    mean, low, high = (f"{number:.3f}".removeprefix("0") for number in (value, *interval))
    return f"{mean} ({low} to {high})"


if __name__ == "__main__":
    main()
