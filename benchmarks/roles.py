"""Role experts on a small real language model, against the unchanged model and one LoRA of the same total rank.

Run: `python benchmarks/smollm.py SMOLLM`, then `python benchmarks/roles.py DATA --backbone SMOLLM`. It runs what is
missing, step by step, resumes where it stopped, and prints the results so far. Of every corpus the last 1.2 MB are
used, so that the mixture's experts and the single LoRA are trained on the same text; held-out documents are the end of
it. General text is the descriptions of installed packages.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experts.atomic_io import read_json, write_json
from moe.bootstrap import bootstrap_differences
from moe.config.run import load_run
from moe.config.stages import INSTRUCT, MERGED
from moe.evaluation.perplexity import LMEvaluation, evaluate_perplexity
from moe.inference.load_mixture import load_mixture
from moe.model.mixture import Mixture
from moe.qa.evaluate import EvalSettings, answer_questions, load_run_questions, qa_predictions_by_task
from moe.qa.scoring import ScoredAnswer, group_by_task, score_answer, score_report
from moe.runs.best import best_model
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace
from moe.training.language.instruct import instruct
from moe.training.language.lm_dataset import LMCorpora
from moe.training.language.pretrain import pretrain, pretrain_shared
from moe.training.steps import merge_experts, train_router

CONFIG = Path(__file__).parent.parent / "configs" / "finteam" / "small.yaml"
CORPORA = {
    "macro": "corpus_macro.txt",
    "calls": "corpus_micro_calls.txt",
    "filings": "corpus_micro_filings.txt",
    "quant": "corpus_quant.txt",
}
TAIL = 1_200_000
"""Characters used of a corpus, at least 400 rows of 512 tokens."""
METHODS: dict[str, EvalSettings] = {"likelihood": EvalSettings(), "written": EvalSettings(method="generation")}
"""Ways to answer questions, by the name in the files of `answers/`."""
VANILLA, TEAM, SINGLE_LORA = "vanilla", "team", "one LoRA of all ranks"
Evaluations = dict[str, LMEvaluation]
"""By corpus."""


def main() -> None:
    """Run what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the corpora and labelled files of the config")
    parser.add_argument("--backbone", type=Path, required=True, help="output folder of benchmarks/smollm.py")
    parser.add_argument("--out", type=Path, default=Path("runs/roles"))
    parser.add_argument("--most", type=int, default=500, help="maximum number of test questions per task")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument("--only", choices=("team", "pooled", "print"), help="run only one part, or only print")
    args = parser.parse_args()
    prepare_data(args.data, args.out / "data")
    if args.only in (None, "team"):
        train(team_workspace(args))
    if args.only in (None, "pooled"):
        train(single_lora_workspace(args))
    if args.only in (None, "print"):
        print_results(args)


def prepare_data(data: Path, out: Path) -> None:
    """Write the end of every corpus and the general text, and link to the labelled files."""
    if (out / "general.jsonl").is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, file in CORPORA.items():
        tail = (data / file).read_text(encoding="utf-8")[-TAIL:]
        (out / f"{name}.txt").write_text(tail[tail.index("\n") + 1 :] if len(tail) == TAIL else tail, encoding="utf-8")
    for path in data.iterdir():
        if path.suffix in (".csv", ".jsonl") and not (out / path.name).exists():
            (out / path.name).symlink_to(path.resolve())
    descriptions = {
        package.metadata["Name"]: str(package.metadata.json.get("description", "")) for package in distributions()
    }
    with (out / "general.jsonl").open("w", encoding="utf-8") as stream:
        for name in sorted(descriptions):
            if len(descriptions[name]) > 500:
                stream.write(json.dumps({"text": descriptions[name][:20_000]}) + "\n")


def overrides(args: argparse.Namespace) -> list[str]:
    """Return the overrides of the config that both runs have in common."""
    folder = args.out / "data"
    return [
        f"backbone.name={args.backbone.resolve()}",
        f"data.folder={folder.resolve()}",
        "language.general=[general.jsonl]",
        *args.sets,
    ]


def team_workspace(args: argparse.Namespace) -> Workspace:
    """The config's run, on the ends of the corpora."""
    corpora = [f"domains.{name}.corpus=[{name}.txt]" for name in CORPORA]
    return Workspace(load_run(CONFIG, [*overrides(args), *corpora]), args.out / "team")


def single_lora_workspace(args: argparse.Namespace) -> Workspace:
    """A run of one expert of the mixture's total rank, shared expert included, on all corpora and questions."""
    run = team_workspace(args).run
    raw = run.model_dump(mode="json", exclude_unset=True)
    rank = run.lora.r * len(run.domains) + (run.shared.r if run.shared else 0)
    tasks: dict[str, Any] = {
        task: settings for domain in raw["domains"].values() for task, settings in domain["tasks"].items()
    }
    train_rows = sum(domain.max_train_rows or 0 for domain in run.domains.values())
    validation_rows = max(domain.max_validation_rows or 0 for domain in run.domains.values())
    raw["domains"] = {
        "all": {
            "corpus": [f"{name}.txt" for name in CORPORA],
            "max_train_rows": train_rows,
            "max_validation_rows": validation_rows * len(run.domains),
            "tasks": tasks,
        }
    }
    raw["lora"] |= {"r": rank, "alpha": run.lora.alpha / run.lora.r * rank}
    raw["gate"] = {"kind": "soft"}
    raw.pop("shared", None)
    path = args.out / "pooled.yaml"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return Workspace(load_run(path), args.out / "pooled")


def train(work: Workspace) -> None:
    """Run the steps that are not finished yet."""
    if work.run.shared:
        pretrain_shared(work, resume=True)
    pretrain(work, resume=True)
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    if len(work.run.domains) > 1:
        train_router(work, resume=True)
    instruct(work, resume=True)


def measure_perplexity(args: argparse.Namespace) -> dict[str, Evaluations]:
    """Return the evaluations of every held-out document, by model and corpus.

    Single experts are evaluated as pre-trained, the mixture and the single LoRA before instruction tuning.
    """
    work = team_workspace(args)
    pretrained = load_mixture(resolve(work.out / MERGED), language=True).model
    corpora, path = LMCorpora(work, pretrained), args.out / "perplexity.json"
    held_out = {name: corpora.corpus(name, packed=False).held_out for name in work.run.domains}
    names = list(held_out)
    evaluations: dict[str, Evaluations] = {}
    saved: dict[str, Any] = read_json(path) if path.is_file() else {}
    roles = {"macro": ["macro"], "micro": micro_experts(work), "quant": ["quant"]}

    def evaluate(title: str, model: Mixture, experts: Mapping[str, Sequence[str]], bare: bool = False) -> None:
        """Evaluate a model with the given routed experts for each corpus; without any expert if `bare`."""
        if title not in saved:
            collate, bank = LMCorpora(work, model).collator(packed=False), model.bank
            results = {}
            for name in names:
                without = [expert for expert in bank.routed_experts if expert not in experts[name]]
                mode = replace(model.mode, without=tuple(bank.adapters if bare else without))
                results[name] = asdict(evaluate_perplexity(model, held_out[name], collate, mode))
            saved[title] = results
            write_json(path, saved)
        evaluations[title] = {name: LMEvaluation(**saved[title][name]) for name in names}

    evaluate(VANILLA, pretrained, dict.fromkeys(names, ()), bare=True)
    if pretrained.bank.shared_experts:
        evaluate("shared expert alone", pretrained, dict.fromkeys(names, ()))
    for name in names:
        evaluate(f"expert {name}", pretrained, dict[str, Sequence[str]].fromkeys(names, [name]))
    for role, experts in roles.items():
        if len(experts) > 1:
            evaluate(f"role {role}", pretrained, dict.fromkeys(names, experts))
    evaluate("oracle, as pre-trained", pretrained, {name: [name] for name in names})
    mixture = load_mixture(resolve(best_model(work.out)), language=True).model
    evaluate("team, routed", mixture, dict.fromkeys(names, names))
    evaluate("team, oracle", mixture, {name: [name] for name in names})
    single = single_lora_workspace(args).out / MERGED
    if single.is_dir():
        single_lora = load_mixture(resolve(single), language=True).model
        evaluate(SINGLE_LORA, single_lora, dict.fromkeys(names, single_lora.bank.routed_experts))
    return evaluations


def micro_experts(work: Workspace) -> list[str]:
    """Return the domains of the micro role."""
    return [domain.name for domain in work.run.domain_list() if domain.group == "micro"]


def answer_test_questions(args: argparse.Namespace) -> dict[str, dict[str, list[ScoredAnswer]]]:
    """Return the scored answers to the test questions, by model and method; saved answers are not generated again."""
    work = team_workspace(args)
    questions = load_run_questions(work, max_questions=args.most)
    team, single = work.out / INSTRUCT.folder, single_lora_workspace(args).out / INSTRUCT.folder
    roles = {"macro": ["macro"], "micro": micro_experts(work), "quant": ["quant"]}
    models: dict[str, tuple[Path, Sequence[str] | None]] = {VANILLA: (team, None), TEAM: (team, ())}
    models |= {SINGLE_LORA: (single, ())} if single.is_dir() else {}
    models |= {f"team without {role}": (team, experts) for role, experts in roles.items()}
    scored: dict[str, dict[str, list[ScoredAnswer]]] = {}
    for name, (folder, without) in models.items():
        for method in METHODS if "without" not in name else list(METHODS)[:1]:
            subset = questions if method == "likelihood" else [q for q in questions if q.kind == "choice"]
            path = args.out / "answers" / f"{name} {method}.jsonl".replace(" ", "-")
            if not path.is_file():
                model, template, _ = load_mixture(resolve(folder), language=True)
                mode = replace(model.mode, without=tuple(model.bank.adapters if without is None else without))
                answers = answer_questions(model, template, subset, METHODS[method], quiet=False, mode=mode)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(json.dumps(answer.output) + "\n" for answer in answers), encoding="utf-8")
            outputs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            scored.setdefault(name, {})[method] = [
                score_answer(question, output) for question, output in zip(subset, outputs, strict=True)
            ]
    return scored


def print_results(args: argparse.Namespace) -> None:
    """Print perplexity and domain accuracy, then the questions with differences from the mixture."""
    console = Console(width=170)
    evaluations = measure_perplexity(args)
    names = list(evaluations[VANILLA])
    table = Table(title="perplexity of held-out documents", title_justify="left")
    for column in ("model", *names, "micro", "all", "all, relative to oracle routing"):
        table.add_column(column)
    oracle = total(evaluations["team, oracle"].values())
    for model, corpora in evaluations.items():
        micro, everything = total([corpora[name] for name in ("calls", "filings")]), total(corpora.values())
        figures = [*(corpora[name].perplexity for name in names), micro.perplexity, everything.perplexity]
        relative = f"{everything.perplexity / oracle.perplexity:.3f}"
        table.add_row(model, *(f"{figure:.2f}" for figure in figures), relative)
    console.print(table)
    routed = total(evaluations["team, routed"].values())
    console.print(f"right role: {(routed.right or 0) / max(1, routed.rows):.3f} of {routed.rows} documents")
    scored = answer_test_questions(args)
    for method in METHODS:
        console.print(build_answers_table(scored, method))


def total(evaluations: Iterable[LMEvaluation]) -> LMEvaluation:
    """Return the sum of evaluations."""
    return sum(evaluations, start=LMEvaluation())


def build_answers_table(scored: Mapping[str, Mapping[str, list[ScoredAnswer]]], method: str) -> Table:
    """Show macro-F1, or accuracy of free answers, the share of missing answers, and the mixture's lead."""
    title = f"test questions by {METHODS[method].method}: macro-F1 or accuracy (share of missing answers)"
    table = Table(title=title, title_justify="left")
    models = {name: answers[method] for name, answers in scored.items() if method in answers}
    tasks = list(group_by_task(models[TEAM]))
    for column in ("model", *tasks, "team minus this, fpb and fomc", "95 %"):
        table.add_column(column)
    ours = qa_predictions_by_task(models[TEAM])
    for name, answers in models.items():
        reports = [score_report(group) for group in group_by_task(answers).values()]
        theirs = qa_predictions_by_task(answers)
        pairs = [(ours[task], theirs[task]) for task in ("fpb", "fomc")]
        lead = bootstrap_differences([our for our, _ in pairs], [their for _, their in pairs])["macro_f1"]
        scores = [report.accuracy if report.macro_f1 is None else report.macro_f1 for report in reports]
        cells = [f"{score:.3f} ({report.missing:.3f})" for score, report in zip(scores, reports, strict=True)]
        table.add_row(name, *cells, f"{100 * lead.value:+.1f}", f"{100 * lead.low:+.1f} to {100 * lead.high:+.1f}")
    return table


if __name__ == "__main__":
    main()
