"""False alarms and detections of `moe drift`: files of held-out rows, and of a domain that was left out of training.

Run: `python benchmarks/drift.py FOLDER --model MIXTURE`; the mixture has some of the config's domains. Files are drawn
from test rows, with the tasks in the proportions of the validation rows, so that they differ in nothing but the rows.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from quality import CONFIG
from rich.console import Console
from rich.table import Table

from moe.config.run import load_run
from moe.drift.comparison import MEASURES, UNLIKE, compare_features
from moe.drift.fit import extract_features, fit_reference
from moe.drift.reference import DriftFeatures, Reference, read_reference
from moe.inference.load import load_torch
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace


def main() -> None:
    """Extract the features of all test rows once, draw files from them, and count the alarms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--model", type=Path, required=True, help="folder of a mixture; its reference is written there")
    parser.add_argument("--out", type=Path, default=Path("runs/drift"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--rows", type=int, nargs="*", default=(50, 200, 500), help="per drawn file")
    parser.add_argument("--files", type=int, default=100, help="drawn per domain and number of rows")
    args = parser.parse_args()
    work = Workspace(load_run(args.config, [f"data.folder={args.data}"]), args.out, args.out / "rows")
    fit_reference(work, args.model)
    reference = read_reference(args.model)
    predictor = load_torch(resolve(args.model)).with_states()
    test = {}
    for task, domain in work.run.label_space().domain_by_task.items():
        rows = work.prepared(domain)[task].splits["test"]
        test[task] = extract_features(predictor, reference.space, list(rows["text"]), task)
    table = Table(title=f"files of test rows found unlike, of {args.files} each", title_justify="left")
    for name in ("test rows of", "compared with validation rows of", *(f"{rows} rows" for rows in args.rows)):
        table.add_column(name)
    for domain in work.run.domains:
        known = domain in reference.domains
        validation = reference.validation
        if known:
            validation = validation.select(reference.domain_index == reference.domains.index(domain))
        shares = _task_shares(work, domain)
        counts = [_count_alarms(test, shares, validation, reference, rows, args.files) for rows in args.rows]
        table.add_row(domain, domain if known else "all its domains", *counts)
    Console(width=140).print(table)


def _task_shares(work: Workspace, domain: str) -> dict[str, float]:
    """Return each task's share of a domain's validation rows."""
    counts = {task: len(prepared.splits["validation"]) for task, prepared in work.prepared(domain).items()}
    return {task: count / sum(counts.values()) for task, count in counts.items()}


def _count_alarms(
    test: Mapping[str, DriftFeatures],
    shares: Mapping[str, float],
    validation: DriftFeatures,
    reference: Reference,
    rows: int,
    files: int,
) -> str:
    """Format how many drawn files are found unlike, in total and by measure."""
    random = np.random.default_rng(rows)
    reports = []
    for _ in range(files):
        counts = dict(zip(shares, random.multinomial(rows, list(shares.values())), strict=True))
        parts = [test[t].select(random.choice(len(test[t]), n, replace=n > len(test[t]))) for t, n in counts.items()]
        features = DriftFeatures(
            shares=np.concatenate([part.shares for part in parts]),
            confidence=np.concatenate([part.confidence for part in parts]),
            distance=np.concatenate([part.distance for part in parts]),
        )
        reports.append(compare_features(features, validation, reference.experts))
    unlike = sum(report.verdict == UNLIKE for report in reports)
    by_measure = {name: sum(report.measures[name].unlike for report in reports) for name in MEASURES}
    return f"{unlike} ({', '.join(f'{name} {count}' for name, count in by_measure.items())})"


if __name__ == "__main__":
    main()
