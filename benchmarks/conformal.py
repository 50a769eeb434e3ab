"""Conformal label sets in domain and under shift: coverage and size per task and domain, beside abstaining.

Run: `python benchmarks/conformal.py FOLDER`. A mixture of all domains of the config is calibrated on their validation
rows and measured on their test rows. Then each domain whose three-way tasks another domain's task can answer is left
out of all training and of the calibration: the sets and thresholds of that other task are measured on its test rows.
Routers are prototypes (no training); each row is answered in the labels of its own task. It trains what is missing,
resumes where it stopped, and prints the results so far as Markdown.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from left_out import LeftOut, answerable
from predictions import append_line, read_lines
from quality import CONFIG, limit_rows

from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import MERGED
from moe.data.sampler import subsample_per_domain
from moe.evaluation.calibrate import collect_logits, fit_calibration
from moe.evaluation.conformal import label_set_report, with_label_sets
from moe.inference.torch_predictor import TorchPredictor
from moe.results.calibration import LabelSetReport, SetCoverage

IN_DOMAIN = "none"
"""Name of the case without a left-out domain."""
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
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    if args.most_rows:
        limits = limit_rows(args.config, max_train_rows=args.most_rows, max_validation_rows=args.most_rows)
        args.sets = [*limits, *args.sets]
    run, path = load_run(args.config, [f"data.folder={args.data}", *args.sets]), args.out / "results.jsonl"
    finished = {line["left_out"] for line in read_lines(path)}
    for name in () if args.print_only else (IN_DOMAIN, *(run.domains if args.left_out is None else args.left_out)):
        case = LeftOut(args, args.seed, name)
        if name not in finished and (report := measure(case, args)):
            append_line(path, {"left_out": name, "report": report.model_dump(mode="json")})
    print_results(read_lines(path))


def measure(case: LeftOut, args: argparse.Namespace) -> LabelSetReport | None:
    """Calibrate a mixture on validation rows of its domains, and measure sets on test rows; None if it has no task."""
    in_domain = case.domain == IN_DOMAIN
    renamed = {} if in_domain else answerable(case)
    if not in_domain and not renamed:
        return None
    work = case.merged("centroid", "none", 0)
    model, card = read_mixture(work.out / MERGED)
    predictor = TorchPredictor(model, card.template, card.backbone_settings.resolved_length)
    answered = {task: task for task in model.labels.tasks} if in_domain else renamed
    known = [domain.name for domain in model.domains]
    validation_rows = of_tasks(work.rows("validation", known), list(answered.values()))
    validation = collect_logits(predictor, validation_rows, title="validation", quiet=True)
    fitted = {task: fit_calibration(logits) for task, logits in validation.items()}
    fitted = with_label_sets(fitted, validation, args.level)
    source = case.workspace("old")
    rows = source.rows("test", known if in_domain else [case.domain])
    rows, logits = of_tasks(subsample_per_domain(rows, args.test_rows, 13), list(answered)), {}
    for task, other in answered.items():
        own = of_tasks(rows, [task])
        own = own.remove_columns("task").add_column("task", [other] * len(own))
        (test,) = collect_logits(predictor, own, title="test", quiet=True).values()
        logits[task] = test.cooled(fitted[other].temperature)
    calibrations = {task: fitted[other] for task, other in answered.items()}
    return label_set_report(calibrations, logits, source.run.label_space().domain_by_task)


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
