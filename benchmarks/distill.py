"""Distillation: a small mixture and a pooled LoRA that learn a larger model's answers on unlabelled text.

Run: `python benchmarks/distill.py FOLDER --backbone MPNET`, with the labelled files of configs/real/five_domains.yaml
and the texts of `TEXT` in FOLDER, and the backbone that `python benchmarks/mpnet.py MPNET` writes. The teacher is one
LoRA on all domains pooled (a shared expert alone) on that backbone, trained on the same labelled rows as the student.
Every student takes the same steps. Parts run one after the other, or each as a process of its own: `--part teacher
--seeds 42`, `--part label --seeds 42`, `--part student --models pooled --variants distilled --seeds 42`.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from predictions import SavedResult, TestResult, append_line, format_points, predictions_by_task, read_lines
from quality import CONFIG, evaluate_expert, evaluate_model, remove_row_limits, train_mixture
from rich.console import Console
from rich.table import Table
from row_limits import limit_rows
from sklearn.metrics import f1_score

from experts.atomic_io import read_json
from moe.bootstrap import bootstrap_differences, bootstrap_intervals
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.distill.label import label_texts
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_shared
from moe.training.pooled import train_pooled

TEXT = {
    "news": ("corpus_micro_filings.txt", "finentity.jsonl", "corpus_micro_calls.txt"),
    "forum": ("corpus_forum_stocktweets.txt",),
    "macro": ("corpus_macro.txt",),
    "micro": ("corpus_micro_calls.txt",),
}
"""Unlabelled texts by domain, 102,000 in all; those of earnings calls also stand in for news, which has few."""
SEEDS, TEACHER_SEEDS = (13, 42, 87), (13, 42, 87)
TEACHER = ["shared.r=40", "stages.shared.lr=4e-4", "stages.shared.head_lr=4e-4", "stages.shared.epochs=4"]
STUDENT = [
    *("stages.shared.steps=2000", "stages.shared.batch_size=64", "stages.shared.evals=4"),
    *("stages.expert.steps=300", "stages.expert.evals=2"),
    *("stages.joint.steps=200", "stages.joint.batch_size=64", "stages.joint.evals=2"),
]
"""Steps of every student, with and without a teacher."""
STOCKNET = "stocknet"
"""A task at chance level: means are shown with and without it."""


@dataclass(frozen=True)
class Variant:
    """A way to train the student.

    Args:
        most: unlabelled texts per domain; None uses all; 0 uses none.
        teachers: number of teachers.
        settings: others of `distill`.
        text: files by domain, instead of `TEXT`.
    """

    most: int | None = None
    teachers: int = 3
    settings: tuple[str, ...] = ()
    text: Mapping[str, Sequence[str]] | None = None


VARIANTS: dict[str, Variant | None] = {
    "undistilled": None,
    "distilled": Variant(),
    "labelled rows alone": Variant(most=0),
    "10,000 texts": Variant(most=2_500),
    "30,000 texts": Variant(most=8_000),
    "30,000 texts, confident": Variant(most=8_000, settings=("distill.select=confident",)),
    "30,000 texts, uncertain": Variant(most=8_000, settings=("distill.select=uncertain",)),
    "30,000 texts, diverse": Variant(most=8_000, settings=("distill.select=diverse",)),
    "one teacher": Variant(teachers=1),
    "T = 1": Variant(settings=("distill.temperature=1",)),
    "T = 4": Variant(settings=("distill.temperature=4",)),
    "weight 3": Variant(settings=("distill.weight=3",)),
    "weighed by DAO": Variant(settings=("distill.weighting=inner",)),
    "calls for micro alone": Variant(text={**TEXT, "news": TEXT["news"][:2]}),
}
"""By the name under which results are saved; `distilled` has every text, three teachers and T = 2."""
MODELS = ("mixture", "pooled")
Metric = Callable[[Sequence[str], Sequence[str]], float]


@dataclass(frozen=True)
class Runs:
    """Workspaces of teachers and students."""

    args: argparse.Namespace

    @cached_property
    def common(self) -> list[str]:
        """Overrides of every run: data, and all labelled rows but those of the task at chance level, or fewer."""
        limits = [limit for limit in remove_row_limits(CONFIG) if STOCKNET not in limit]
        most = {"max_train_rows": self.args.most_rows, "max_validation_rows": self.args.most_validation}
        chosen = {name: rows for name, rows in most.items() if rows is not None}
        return [f"data.folder={self.args.data.resolve()}", *limits, *(limit_rows(CONFIG, **chosen) if chosen else [])]

    def teacher(self, seed: int) -> Workspace:
        """Run of a teacher."""
        sets = [*self.common, f"seed={seed}", f"backbone.name={self.args.backbone}", *TEACHER, *self.args.teacher_sets]
        return Workspace(load_run(CONFIG, sets), self.args.out / f"teacher-{seed}")

    def student(self, seed: int, name: str, model: str = MODELS[0]) -> Workspace:
        """Run of a student, with rows of its own, since several processes may train students at once."""
        variant = VARIANTS[name]
        sets = [*self.common, f"seed={seed}", *STUDENT, *self.args.sets]
        sets += [] if variant is None else self.distillation(variant)
        folder = f"{model}-{name}-{seed}".replace(" ", "_").replace(",", "")
        return Workspace(load_run(CONFIG, sets), self.args.out / folder)

    def distillation(self, variant: Variant) -> list[str]:
        """Overrides that distil."""
        seeds = TEACHER_SEEDS[: variant.teachers]
        teachers = ", ".join(
            str((self.args.out / f"teacher-{seed}" / "experts" / "shared").resolve()) for seed in seeds
        )
        text = variant.text or TEXT
        most = self.args.most_texts if variant.most is None else variant.most
        files = ", ".join(f"{domain}: [{', '.join(names)}]" for domain, names in text.items())
        return [
            f"distill.teachers=[{teachers}]",
            *([] if variant.most == 0 else [f"distill.text={{{files}}}"]),
            *([f"distill.most={most}"] if most else []),
            f"distill.cache={(self.args.out / 'answers').resolve()}",
            *variant.settings,
        ]


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the labelled files and the texts")
    parser.add_argument("--backbone", type=Path, help="folder of the teachers' backbone")
    parser.add_argument("--out", type=Path, default=Path("runs/distill"))
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--part", choices=("teacher", "label", "student"), help="do only this part")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS)[:2])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    parser.add_argument("--most-rows", type=int, help="training rows of each task, of teachers and students")
    parser.add_argument("--most-validation", type=int, help="validation rows of each task")
    parser.add_argument("--most-texts", type=int, help="unlabelled texts of a domain, if the variant uses all")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting of the students")
    parser.add_argument(
        "--teacher-set", dest="teacher_sets", action="append", default=[], help="override a setting of the teachers"
    )
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    if not args.print_only:
        for part in (args.part,) if args.part else PARTS:
            PARTS[part](args)
    print_tables(args.out, Runs(args))


def train_teachers(args: argparse.Namespace) -> None:
    """Train the teachers, and evaluate each on the test rows."""
    for seed in args.seeds:
        save(args, f"teacher-{seed}", seed, "teacher", partial(measure_teacher, Runs(args).teacher(seed)))


def measure_teacher(work: Workspace) -> TestResult:
    """Train one teacher and evaluate it."""
    train_shared(work, resume=True)
    return evaluate_expert(work, "shared")


def label(args: argparse.Namespace) -> None:
    """Have the teachers of the given seeds answer every text, all of which the variants read later."""
    for seed in args.seeds:
        folder = (args.out / f"teacher-{seed}" / "experts" / "shared").resolve()
        runs = Runs(args)
        sets = [*runs.common, *runs.distillation(Variant()), f"distill.teachers=[{folder}]", *args.sets]
        label_texts(Workspace(load_run(CONFIG, sets), args.out / f"labels-{seed}"))


def train_students(args: argparse.Namespace) -> None:
    """Train and evaluate the students."""
    for seed in args.seeds:
        for variant in args.variants:
            for model in args.models:
                measure = MEASURES[model]
                work = Runs(args).student(seed, variant, model)
                save(args, f"student-{seed}", seed, f"{model}, {variant}", partial(measure, work))


def measure_mixture(work: Workspace) -> TestResult:
    """Train a mixture, and evaluate the one that validation chooses."""
    if work.run.distill is not None:
        label_texts(work)
    train_mixture(work)
    model, card = read_mixture(best_model(work.out))
    length = card.backbone_settings.resolved_length
    return evaluate_model(model, work, card.template, length, card.metrics.get("macro_f1"))


def measure_pooled(work: Workspace) -> TestResult:
    """Train a LoRA of the mixture's total rank on all domains pooled, and evaluate it."""
    if work.run.distill is not None:
        label_texts(work)
    folder = train_pooled(work, resume=True)
    model, run = load_single_expert(folder)
    validation = read_json(folder / "metrics.json")["best"]["macro_f1"]
    return evaluate_model(model, work, run.template, run.backbone.resolved_length, validation)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "teacher": train_teachers,
    "label": label,
    "student": train_students,
}
MEASURES: dict[str, Callable[[Workspace], TestResult]] = {"mixture": measure_mixture, "pooled": measure_pooled}


def save(args: argparse.Namespace, file: str, seed: int, model: str, measure: Callable[[], TestResult]) -> None:
    """Measure a model unless the results hold it, and append its predictions."""
    name = f"{file}-{model}".replace(" ", "_").replace(",", "")
    path = args.out / f"result-{name}.jsonl"
    if read_lines(path):
        return
    result = measure()
    line = {"model": model, "seed": seed, "predictions": result.pairs, "validation": result.validation}
    append_line(path, line | {"routing": result.routing})


def read_results(out: Path) -> dict[str, list[SavedResult]]:
    """Results by model, in the order of seeds, from the folder and those below it."""
    lines = [line for path in sorted(out.rglob("result-*.jsonl")) for line in read_lines(path)]
    lines.sort(key=lambda line: int(line["seed"]))
    return {
        name: [line for line in lines if line["model"] == name]
        for name in dict.fromkeys(each["model"] for each in lines)
    }


def ordered(results: Mapping[str, list[SavedResult]]) -> Iterator[str]:
    """Names of models: teachers, then students by variant."""
    names = ["teacher", *(f"{model}, {variant}" for variant in VARIANTS for model in MODELS)]
    yield from (name for name in names if name in results)


def print_tables(out: Path, runs: Runs) -> None:
    """Print macro-F1 by task, and each student's difference from the undistilled one over the same seeds."""
    results = read_results(out)
    space = runs.student(SEEDS[0], "undistilled").run.label_space()
    tasks = list(space.tasks)
    table, console = Table("model", "seeds", *tasks, "mean", f"without {STOCKNET}", "validation"), Console(width=190)
    for name in ordered(results):
        grouped = predictions_by_task(results[name], space)
        values = {task: bootstrap_intervals([grouped[task]])["macro_f1"].value for task in grouped}
        others = [value for task, value in values.items() if task != STOCKNET]
        validation = np.mean([line["validation"] for line in results[name] if line["validation"] is not None])
        means = (np.mean(list(values.values())), np.mean(others), validation)
        seeds = ", ".join(str(line["seed"]) for line in results[name])
        table.add_row(name, seeds, *(f"{values.get(t, np.nan):.3f}" for t in tasks), *(f"{m:.3f}" for m in means))
    console.print(table)
    print_anchors(results, console)
    print_differences(results, runs, console)


def print_anchors(results: Mapping[str, list[SavedResult]], console: Console) -> None:
    """Print the figures that publications give: accuracy on fpb and twitter, macro-F1 on fpb, weighted F1 on fomc."""
    table = Table("model", "fpb accuracy", "fpb macro-F1", "twitter accuracy", "fomc weighted F1")
    for name in ordered(results):
        pairs = [line["predictions"] for line in results[name]]

        figures = [np.mean([metric(*each[task]) for each in pairs]) for task, metric in ANCHORS]
        table.add_row(name, *(f"{figure:.3f}" for figure in figures))
    console.print(table)


def macro_f1(true: Sequence[str], predicted: Sequence[str]) -> float:
    """Unweighted mean of the F1 of each label."""
    return float(f1_score(true, predicted, average="macro"))


def weighted_f1(true: Sequence[str], predicted: Sequence[str]) -> float:
    """Mean of the F1 of each label, weighted by its rows."""
    return float(f1_score(true, predicted, average="weighted"))


def accuracy(true: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of equal labels."""
    return float(np.mean(np.asarray(true) == np.asarray(predicted)))


ANCHORS: tuple[tuple[str, Metric], ...] = (
    ("fpb", accuracy),
    ("fpb", macro_f1),
    ("twitter", accuracy),
    ("fomc", weighted_f1),
)


def print_differences(results: Mapping[str, list[SavedResult]], runs: Runs, console: Console) -> None:
    """Print each student's mean macro-F1 less that of the undistilled one, paired by row and seed."""
    space = runs.student(SEEDS[0], "undistilled").run.label_space()
    table = Table("model", "less", "seeds", "all tasks, points", f"without {STOCKNET}")
    pairs = [(f"{model}, {variant}", f"{model}, undistilled") for model in MODELS for variant in VARIANTS]
    pairs += [(f"mixture, {variant}", f"pooled, {variant}") for variant in VARIANTS]
    for first, second in pairs:
        seeds = {line["seed"] for line in results.get(first, [])} & {line["seed"] for line in results.get(second, [])}
        if first == second or not seeds:
            continue
        ours, theirs = (
            predictions_by_task([line for line in results[name] if line["seed"] in seeds], space)
            for name in (first, second)
        )
        differences = [
            bootstrap_differences([ours[task] for task in names], [theirs[task] for task in names])["macro_f1"]
            for names in (list(ours), [task for task in ours if task != STOCKNET])
        ]
        table.add_row(first, second, ", ".join(map(str, sorted(seeds))), *map(format_points, differences))
    console.print(table)


if __name__ == "__main__":
    main()
