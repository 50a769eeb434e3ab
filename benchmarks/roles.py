"""A team of roles over a small real language model, beside that model as it is and one LoRA of the same total rank.

Run: `python benchmarks/smollm.py SMOLLM`, then `python benchmarks/roles.py DATA --backbone SMOLLM`; it makes what is
missing, step by step, goes on where it stopped and prints the tables of what is there. Every corpus is cut to its last
1.2 MB, so that the team's experts and the one LoRA learn from the same text; what is held out is the end of that.
General text is the descriptions that installed packages ship.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
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
from moe.inference.loading import load_language_model
from moe.model.mixture import Mixture
from moe.qa.evaluate import EvalSettings, answer_questions, load_run_questions, qa_predictions_by_task
from moe.qa.scoring import ScoredAnswer, group_by_task, score_answer, score_report
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.instruct import instruct
from moe.training.lm_dataset import LMCorpora
from moe.training.pretrain import pretrain, pretrain_shared
from moe.training.steps import merge_experts, train_router

CONFIG = Path(__file__).parent.parent / "configs" / "finteam" / "small.yaml"
CORPORA = {
    "macro": "corpus_macro.txt",
    "calls": "corpus_micro_calls.txt",
    "filings": "corpus_micro_filings.txt",
    "quant": "corpus_quant.txt",
}
TAIL = 1_200_000
"""Characters of a corpus: at least 400 rows of 512 tokens."""
WAYS: dict[str, EvalSettings] = {"likelihood": EvalSettings(), "written": EvalSettings(method="generation")}


def main() -> None:
    """Make what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the corpora and labelled files of the config")
    parser.add_argument("--backbone", type=Path, required=True, help="folder that benchmarks/smollm.py wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/roles"))
    parser.add_argument("--most", type=int, default=500, help="test questions of a task")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="lay a setting over the config")
    parser.add_argument("--only", choices=("team", "pooled", "print"), help="make one part alone, or print alone")
    args = parser.parse_args()
    prepare(args.data, args.out / "data")
    if args.only in (None, "team"):
        make(team(args))
    if args.only in (None, "pooled"):
        make(pooled(args))
    if args.only in (None, "print"):
        show(args)


def prepare(data: Path, out: Path) -> None:
    """The last part of every corpus, general text, and links to the labelled files."""
    if (out / "general.jsonl").is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, file in CORPORA.items():
        tail = (data / file).read_text(encoding="utf-8")[-TAIL:]
        (out / f"{name}.txt").write_text(tail[tail.index("\n") + 1 :] if len(tail) == TAIL else tail, encoding="utf-8")
    for path in data.iterdir():
        if path.suffix in (".csv", ".jsonl") and not (out / path.name).exists():
            (out / path.name).symlink_to(path.resolve())
    told = {one.metadata["Name"]: str(one.metadata.json.get("description", "")) for one in distributions()}
    with (out / "general.jsonl").open("w", encoding="utf-8") as stream:
        for name in sorted(told):
            if len(told[name]) > 500:
                stream.write(json.dumps({"text": told[name][:20_000]}) + "\n")


def settings(args: argparse.Namespace) -> list[str]:
    """What both runs share, laid over the config."""
    folder = args.out / "data"
    return [
        f"backbone.name={args.backbone.resolve()}",
        f"data.folder={folder.resolve()}",
        "language.general=[general.jsonl]",
        *args.sets,
    ]


def team(args: argparse.Namespace) -> Workspace:
    """The config's run, on the corpora's last parts."""
    corpora = [f"domains.{name}.corpus=[{name}.txt]" for name in CORPORA]
    return Workspace(load_run(CONFIG, [*settings(args), *corpora]), args.out / "team")


def pooled(args: argparse.Namespace) -> Workspace:
    """One expert of the team's total rank, its shared expert's included, on all corpora and all questions."""
    run = team(args).run
    raw = run.model_dump(mode="json", exclude_unset=True)
    rank = run.lora.r * len(run.domains) + (run.shared.r if run.shared else 0)
    tasks: dict[str, Any] = {task: one for domain in raw["domains"].values() for task, one in domain["tasks"].items()}
    most = sum(one.max_train_rows or 0 for one in run.domains.values())
    shown = max(one.max_validation_rows or 0 for one in run.domains.values())
    raw["domains"] = {
        "all": {
            "corpus": [f"{name}.txt" for name in CORPORA],
            "max_train_rows": most,
            "max_validation_rows": shown * len(run.domains),
            "tasks": tasks,
        }
    }
    raw["lora"] |= {"r": rank, "alpha": run.lora.alpha / run.lora.r * rank}
    raw["gate"] = {"kind": "soft"}
    raw.pop("shared", None)
    path = args.out / "pooled.yaml"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return Workspace(load_run(path), args.out / "pooled")


def make(work: Workspace) -> None:
    """All steps of a run that are not done yet."""
    if work.run.shared:
        pretrain_shared(work, resume=True)
    pretrain(work, resume=True)
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    if len(work.run.domains) > 1:
        train_router(work, resume=True)
    instruct(work, resume=True)


def foreseen(args: argparse.Namespace) -> dict[str, dict[str, LMEvaluation]]:
    """By model and corpus, what is foreseen of every held-out document, read one by one as the router reads them.

    Experts stand alone as they were pre-trained, the team and the one LoRA as they were before any question.
    """
    work = team(args)
    experts, _ = load_language_model(work.out / MERGED)
    shelf, book = LMCorpora(work, experts), args.out / "perplexity.json"
    held_out = {name: shelf.corpus(name, False).held_out for name in work.run.domains}
    names = list(held_out)
    rows: dict[str, dict[str, LMEvaluation]] = {}
    seen: dict[str, Any] = read_json(book) if book.is_file() else {}
    micro = [one.name for one in work.run.domain_list() if one.group == "micro"]
    roles = {"macro": ["macro"], "micro": micro, "quant": ["quant"]}

    def row(title: str, model: Mixture, kept: Mapping[str, Sequence[str]], bare: bool = False) -> None:
        if title not in seen:
            collate, found = LMCorpora(work, model).collator(False), {}
            bank = model.bank
            for name in names:
                without = [one for one in bank.routed_experts if one not in kept[name]]
                with model.ablated(tuple(bank.adapters) if bare else without):
                    found[name] = asdict(evaluate_perplexity(model, held_out[name], collate))
            seen[title] = found
            write_json(book, seen)
        rows[title] = {name: LMEvaluation(**seen[title][name]) for name in names}

    row("vanilla", experts, dict.fromkeys(names, ()), bare=True)
    if experts.bank.shared_experts:
        row("shared expert alone", experts, dict.fromkeys(names, ()))
    for name in names:
        row(f"expert {name}", experts, dict[str, Sequence[str]].fromkeys(names, [name]))
    for role, mine in roles.items():
        if len(mine) > 1:
            row(f"role {role}", experts, dict.fromkeys(names, mine))
    row("oracle, as pre-trained", experts, {name: [name] for name in names})
    routed, _ = load_language_model(best_model(work.out))
    row("team, routed", routed, dict.fromkeys(names, names))
    row("team, oracle", routed, {name: [name] for name in names})
    if (pooled(args).out / MERGED).is_dir():
        one, _ = load_language_model(pooled(args).out / MERGED)
        row("one LoRA of all ranks", one, dict.fromkeys(names, one.bank.routed_experts))
    return rows


def questioned(args: argparse.Namespace) -> dict[str, dict[str, list[ScoredAnswer]]]:
    """By model and way of asking, the marked test questions of all tasks; what was asked before is not asked again."""
    work = team(args)
    asked = load_run_questions(work, max_questions=args.most)
    micro = [one.name for one in work.run.domain_list() if one.group == "micro"]
    taught, one = work.out / INSTRUCT.folder, pooled(args).out / INSTRUCT.folder
    models: dict[str, tuple[Path, Sequence[str] | None]] = {"vanilla": (taught, None), "team": (taught, ())}
    models |= {"one LoRA of all ranks": (one, ())} if one.is_dir() else {}
    models |= {f"team without {role}": (taught, some) for role, some in {"macro": ["macro"], "micro": micro}.items()}
    models["team without quant"] = (taught, ["quant"])
    found: dict[str, dict[str, list[ScoredAnswer]]] = {}
    for name, (folder, without) in models.items():
        for way in WAYS if "without" not in name else list(WAYS)[:1]:
            some = asked if way == "likelihood" else [one for one in asked if one.kind == "choice"]
            path = args.out / "answers" / f"{name} {way}.jsonl".replace(" ", "-")
            if not path.is_file():
                model, template = load_language_model(folder)
                with model.ablated(tuple(model.bank.adapters) if without is None else tuple(without)):
                    marked = answer_questions(model, template, some, WAYS[way], quiet=False)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(json.dumps(one.output) + "\n" for one in marked), encoding="utf-8")
            said = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found.setdefault(name, {})[way] = [score_answer(*pair) for pair in zip(some, said, strict=True)]
    return found


def show(args: argparse.Namespace) -> None:
    """Both tables of perplexity, then the questions with differences from the team."""
    console = Console(width=170)
    rows = foreseen(args)
    names = list(rows["vanilla"])
    table = Table(title="perplexity of held-out documents", title_justify="left")
    for column in ("model", *names, "micro", "all", "all, of the oracle's"):
        table.add_column(column)
    oracle = whole(rows["team, oracle"].values())
    for model, found in rows.items():
        micro, everything = whole([found[name] for name in ("calls", "filings")]), whole(found.values())
        of_oracle = f"{everything.perplexity / oracle.perplexity:.3f}"
        figures = [*(found[name].perplexity for name in names), micro.perplexity, everything.perplexity]
        table.add_row(model, *(f"{one:.2f}" for one in figures), of_oracle)
    console.print(table)
    seen = whole(rows["team, routed"].values())
    console.print(f"right role of {seen.rows} documents: {(seen.right or 0) / max(1, seen.rows):.3f}")
    marked = questioned(args)
    for way in WAYS:
        console.print(answers_table(marked, way))


def whole(parts: Iterable[LMEvaluation]) -> LMEvaluation:
    """All of some."""
    return sum(parts, start=LMEvaluation())


def answers_table(marked: Mapping[str, Mapping[str, list[ScoredAnswer]]], way: str) -> Table:
    """Macro-F1, or accuracy of free answers, with what is missing; and the team's lead over each model."""
    table = Table(title=f"test questions, {way}: macro-F1 or accuracy (missing)", title_justify="left")
    mine = {name: found[way] for name, found in marked.items() if way in found}
    tasks = list(group_by_task(mine["team"]))
    for column in ("model", *tasks, "team leads by, fpb and fomc", "95 %"):
        table.add_column(column)
    ours = qa_predictions_by_task(mine["team"])
    for name, some in mine.items():
        found = {task: score_report(one) for task, one in group_by_task(some).items()}
        theirs = qa_predictions_by_task(some)
        lead = bootstrap_differences(*([side[task] for task in ("fpb", "fomc")] for side in (ours, theirs)))["macro_f1"]
        figures = [f"{one.get('macro_f1', one['accuracy']):.3f} ({one['missing']:.3f})" for one in found.values()]
        table.add_row(name, *figures, f"{100 * lead.value:+.1f}", f"{100 * lead.low:+.1f} to {100 * lead.high:+.1f}")
    return table


if __name__ == "__main__":
    main()
