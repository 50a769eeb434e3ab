"""Head-room of routing: what a perfect choice among a mixture's experts could gain, over one among pooled seeds.

Run: `python benchmarks/headroom.py FOLDER`, with the files of configs/real/five_domains.yaml in FOLDER. Part `experts`
trains the shared expert and the experts on top of it, and predicts every test text with each expert alone. Part
`pooled` trains pooled LoRAs of the mixture's total rank with as many seeds as there are experts. An oracle is right on
a text if any of its members is. Any models that differ give an oracle above their mean; so only the experts' oracle
less the seeds' is head-room for a router. It resumes where it stopped, and prints the results so far.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from accuracy_table import CHANCE_TASKS, without_tasks
from predictions import (
    LabelPairs,
    SavedResult,
    TestResult,
    append_result,
    format_points,
    group_by_domain,
    mean_over_domains,
    read_all_results,
)
from quality import evaluate_model
from rich.console import Console
from rich.table import Table
from row_limits import add_most_rows, limit_by_option

from experts.domain import LabelSpace
from moe.bootstrap import Interval, TaskPredictions
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import MERGED
from moe.evaluation.rows import iter_chunks, true_label
from moe.inference.per_expert import predict_per_expert
from moe.inference.torch_predictor import TorchPredictor
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.pooled import train_pooled
from moe.training.steps import merge_experts

CONFIG = Path(__file__).parent.parent / "configs" / "real" / "five_domains.yaml"
EXPERT_SEEDS, POOLED_SEEDS = (13, 42, 87), (13, 42, 87, 1, 2)
EXPERT, POOLED = "expert ", "pooled"
"""Start of the names of the experts' results, and name of the pooled LoRAs' ones."""
PARTS = ("experts", POOLED)
FULL_PRECISION = ("backbone.dtype=float32", "track=[]")
Hits = dict[str, np.ndarray]
"""By task: whether each member is right on each row (M, N), or whether a set of members is, in some sense (S, N)."""


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--out", type=Path, default=Path("runs/headroom"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part (repeatable)")
    parser.add_argument(
        "--seeds", type=int, nargs="*", help=f"by default {EXPERT_SEEDS}, of pooled LoRAs {POOLED_SEEDS}"
    )
    parser.add_argument("--prepared", type=Path, help="folder of prepared rows; processes may share a filled one")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    add_most_rows(parser)
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    limit_by_option(args)
    if not args.print_only:
        for part, seeds in zip(PARTS, (EXPERT_SEEDS, POOLED_SEEDS), strict=True):
            for seed in args.seeds or seeds:
                if args.part is None or part in args.part:
                    measure_missing(args, part, seed)
    space = load_run(args.config, [f"data.folder={args.data}", *args.sets]).label_space()
    print_headroom(read_all_results(args.out), space)


def measure_missing(args: argparse.Namespace, part: str, seed: int) -> None:
    """Measure a part with a seed, unless its results are there."""
    sets = [f"data.folder={args.data}", f"seed={seed}", *FULL_PRECISION, *args.sets]
    work = Workspace(load_run(args.config, sets), args.out / str(seed), args.prepared or args.out / "rows")
    finished = {str(result["model"]) for result in read_all_results(args.out) if result["seed"] == seed}
    names = [EXPERT + name for domain in work.run.domain_list() for name in domain.expert_names]
    if part == POOLED and POOLED not in finished:
        train_pooled(work, resume=True)
        model, run = load_single_expert(work.pooled_folder)
        append_result(args.out, seed, POOLED, evaluate_model(model, work, run.template, run.backbone.resolved_length))
    if part != POOLED and not finished.issuperset(names):
        for name, pairs in predict_with_each(work).items():
            if EXPERT + name not in finished:
                append_result(args.out, seed, EXPERT + name, TestResult(pairs))


def predict_with_each(work: Workspace) -> dict[str, LabelPairs]:
    """Train the experts, and predict all labelled test rows with each of them alone, on top of the shared expert."""
    train_shared(work, resume=True)
    for name in work.run.domains:
        train_domain(work, name, resume=True)
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    model, card = read_mixture(work.out / MERGED)
    predictor = TorchPredictor(model, card.template, card.backbone_settings.resolved_length)
    pairs: dict[str, LabelPairs] = {name: {} for name in model.bank.routed_experts}
    for chunk in iter_chunks(work.rows("test"), predictor.chunk_size):
        rows = [row for row in chunk if row["label"] >= 0]
        texts, tasks = [row["text"] for row in rows], [row["task"] for row in rows]
        for name, predictions in predict_per_expert(predictor, texts, tasks, [row["target"] for row in rows]).items():
            for row, prediction in zip(rows, predictions, strict=True):
                true, predicted = pairs[name].setdefault(row["task"], ([], []))
                true.append(str(true_label(row, model.labels)))
                predicted.append(prediction.label)
    return pairs


def answers_by_task(results: Sequence[SavedResult]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return by task whether each result's answer is right, and the answers themselves, (M, N) each."""
    tasks = results[0]["predictions"]
    answers = {task: np.array([result["predictions"][task][1] for result in results]) for task in tasks}
    return {task: (own == np.array(tasks[task][0]), own) for task, own in answers.items()}


def any_right(right: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Whether any member is right on a row, (N,), from (M, N)."""
    return np.asarray(right.any(0))


def not_unanimous(right: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Whether two members differ on a row, (N,), from (M, N)."""
    return np.asarray((answers != answers[:1]).any(0))


def mean_right(right: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Whether each member is right on a row, (M, N)."""
    return right


Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]


def apply(measure: Measure, sets: Sequence[Sequence[SavedResult]]) -> dict[str, TaskPredictions]:
    """Return a measure of each set of members, by task, as predictions whose accuracy is its mean."""
    values: dict[str, list[np.ndarray]] = {}
    for members in sets:
        for task, (right, answers) in answers_by_task(members).items():
            values.setdefault(task, []).append(np.atleast_2d(measure(right, answers)))
    return {
        task: TaskPredictions.from_correct(np.concatenate(own).astype(int).tolist()) for task, own in values.items()
    }


def print_headroom(results: Sequence[SavedResult], space: LabelSpace) -> None:
    """Print oracle and disagreement over experts and over pooled seeds, by domain and as means over domains."""
    console = Console(width=200)
    experts: dict[int, list[SavedResult]] = {}
    for result in results:
        if result["model"].startswith(EXPERT):
            experts.setdefault(result["seed"], []).append(result)
    pooled = [result for result in results if result["model"] == POOLED]
    size = max(map(len, experts.values()), default=0)
    complete = [members for members in experts.values() if len(members) == size]
    seeds = ", ".join(str(seed) for seed, members in experts.items() if len(members) == size)
    console.print(f"experts: {size}, seeds {seeds or 'none'}; pooled: seeds {[result['seed'] for result in pooled]}")
    if not complete or len(pooled) < size:
        console.print(f"the comparison needs the experts, and as many pooled seeds ({len(pooled)} so far)")
        return
    subsets = list(combinations(pooled, size))
    table = Table(
        title=f"of {size} members, % of test rows; differences in points, 95 % over rows, mean over seeds",
        title_justify="left",
    )
    names = {"mean accuracy": mean_right, "oracle": any_right, "disagreement": not_unanimous}
    table.add_column("domain")
    for name in names:
        for column in (f"{name}: experts", "pooled seeds", "difference"):
            table.add_column(column)
    measures = {
        name: [apply(measure, complete), apply(measure, subsets if measure is not mean_right else [pooled])]
        for name, measure in names.items()
    }
    for title, chance in (("mean", ()), ("mean without chance level", CHANCE_TASKS)):
        grouped = {
            name: [group_by_domain(without_tasks(side, chance), space) for side in sides]
            for name, sides in measures.items()
        }
        if not chance:
            for domain in grouped["oracle"][0]:
                own = {name: [{domain: side[domain]} for side in sides] for name, sides in grouped.items()}
                table.add_row(domain, *_cells(own))
        if grouped["oracle"][0]:
            table.add_row(title, *_cells(grouped))
    console.print(table)


def _cells(measures: Mapping[str, Sequence[Mapping[str, list[TaskPredictions]]]]) -> list[str]:
    cells: list[str] = []
    for experts, pooled in measures.values():
        ours, theirs = (mean_over_domains(dict(side), metric="accuracy") for side in (experts, pooled))
        difference = mean_over_domains(dict(experts), dict(pooled), metric="accuracy")
        cells += [_percent(ours), _percent(theirs), format_points(difference)]
    return cells


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f}"


if __name__ == "__main__":
    main()
