"""How often `moe drift` calls held-out text unlike, and how often text of a domain that the model never saw.

Run: `python benchmarks/drift.py FOLDER --model MIXTURE`; the mixture knows some of the config's domains. Test rows are
drawn task by task in the proportions of validation rows, so that nothing but the rows differs.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from quality import CONFIG
from rich.console import Console
from rich.table import Table

from moe.config.run import load_run
from moe.drift.drift import MEASURES, UNLIKE, compare_features
from moe.drift.fit import extract_features, fit_reference
from moe.drift.reference import DriftFeatures, Reference, read_reference
from moe.inference.loading import load_model
from moe.inference.predictor import Predictor
from moe.runs.workspace import Workspace


def main() -> None:
    """Look at all test rows once, draw files of them, and count what they are called."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--model", type=Path, required=True, help="a mixture's folder; its reference is written there")
    parser.add_argument("--out", type=Path, default=Path("runs/drift"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--rows", type=int, nargs="*", default=(50, 200, 500), help="of a drawn file")
    parser.add_argument("--files", type=int, default=100, help="drawn of each kind")
    args = parser.parse_args()
    work = Workspace(load_run(args.config, [f"data.folder={args.data}"]), args.out, args.out / "rows")
    fit_reference(work, args.model)
    reference = read_reference(args.model)
    model, template, length = load_model(args.model)
    predictor = Predictor(model, template, length, states=True)
    test = {}
    for task, domain in work.run.label_space().domain_by_task.items():
        rows = work.prepared(domain)[task].splits["test"]
        test[task] = extract_features(predictor, reference.space, list(rows["text"]), task)
    console = Console(width=140)
    table = Table(title=f"drawn files of test rows called unlike, of {args.files} each", title_justify="left")
    for name in ("test rows of", "beside validation rows of", *(f"{rows} rows" for rows in args.rows)):
        table.add_column(name)
    for domain in work.run.domains:
        known = domain in reference.domains
        held = reference.validation.select(reference.domain_index == reference.domains.index(domain)) if known else reference.validation
        of = _shares(work, domain)
        counts = [_alarms({t: test[t] for t in of}, of, held, reference, rows, args.files) for rows in args.rows]
        table.add_row(domain, domain if known else "all that it knows", *counts)
    console.print(table)


def _shares(work: Workspace, domain: str) -> dict[str, float]:
    """Each task's part of a domain's validation rows."""
    counts = {task: len(one.splits["validation"]) for task, one in work.prepared(domain).items()}
    return {task: count / sum(counts.values()) for task, count in counts.items()}


def _alarms(
    test: Mapping[str, DriftFeatures], of: Mapping[str, float], held: DriftFeatures, reference: Reference, rows: int, files: int
) -> str:
    random = np.random.default_rng(rows)
    found = []
    for _ in range(files):
        counts = dict(zip(of, random.multinomial(rows, list(of.values())), strict=True))
        parts = [test[t].select(random.choice(len(test[t]), n, replace=n > len(test[t]))) for t, n in counts.items()]
        names = ("shares", "confidence", "distance")
        drawn = DriftFeatures(*(np.concatenate([getattr(one, name) for one in parts]) for name in names))
        found.append(compare_features(drawn, held, reference.experts))
    unlike = sum(one["verdict"] == UNLIKE for one in found)
    by = {name: sum(one["measures"][name]["unlike"] for one in found) for name in MEASURES}
    return f"{unlike} ({', '.join(f'{name} {count}' for name, count in by.items())})"


if __name__ == "__main__":
    main()
