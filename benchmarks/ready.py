"""Train, evaluate and write the ready mixture, which the package ships as `moe/ready`.

Run: `python benchmarks/mpnet.py runs/mpnet`, then `python benchmarks/ready.py FOLDER`. It trains in `--work` what is
missing there: first the teacher of configs/ready_teacher.yaml on the backbone of the first command, then the mixture,
which also learns the teacher's answers. It measures both, and writes the mixture with its calibration, drift reference,
graph and model card to `--out`. On machines of one kind it writes the same bytes. Afterwards, copy the printed hashes
into `READY_HASHES` of moe/runs/model_ref.py.

`--set distill=null` trains the mixture from its labels alone, without a teacher.
"""

import argparse
import csv
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from ready_card import format_card
from ready_figures import Figure, count_seen, own_figures, unseen_figures

from experts.atomic_io import sha256_of, write_text
from moe.checkpoints.mixture import read_mixture, write_mixture
from moe.config.run import load_run
from moe.drift.fit import fit_reference
from moe.evaluation.calibration.calibrate import calibrate
from moe.export.graph import write_graph
from moe.inference.calibration import read_calibration, write_calibration
from moe.inference.load import load_torch
from moe.runs.best import best_model, has_mixture
from moe.runs.model_ref import READY_FOLDER, READY_HASHES, resolve
from moe.runs.workspace import Workspace
from moe.synthetic.statements import Register, generate_statements, generate_target_statements
from moe.training.expert_steps import train_shared
from moe.training.pipeline import train_all

CONFIG = Path(__file__).parent.parent / "configs" / "ready.yaml"
TEACHER_CONFIG = CONFIG.with_name("ready_teacher.yaml")
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
"""Name of the shipped backbone on the hub, for PEFT."""
STATEMENTS: dict[str, tuple[Register | Literal["target"], int]] = {
    "statements": ("news", 7500),
    "posts": ("forum", 1500),
    "statement_entities": ("target", 1500),
}
"""By task: the register of its statements, or statements about a target, and the number of rows."""
SEED = 13
FILINGS = "corpus_micro_filings.txt"
TEXTS = ("report_sentences.txt", "unlabelled_statements.txt")
"""Files of texts without labels that this script writes."""
UNLABELLED_STATEMENTS = 4000
SENTENCE_END = re.compile(r"(?<=[a-z0-9%)][.!?])\s+(?=[A-Z])")
SENTENCE_LENGTHS = range(40, 301)
"""Characters of a sentence that is long enough to state something, and short enough for one statement."""


def main() -> None:
    """Train what is missing, measure, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the data sets")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--backbone", type=Path, default=Path("runs/mpnet"), help="folder of a teacher's backbone")
    parser.add_argument("--work", type=Path, help="default: runs/ and the name of the config")
    parser.add_argument("--out", type=Path, help="default: that of the package; of another config, shipped/ in --work")
    parser.add_argument("--threads", type=int, default=2, help="another number gives other bytes")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="override a setting")
    parser.add_argument(
        "--teacher-set", dest="teacher_sets", action="append", default=[], help="override a setting of the teacher"
    )
    args = parser.parse_args()
    args.work = args.work or Path("runs") / args.config.stem
    args.out = args.out or (READY_FOLDER if args.config.resolve() == CONFIG.resolve() else args.work / "shipped")
    torch.set_num_threads(args.threads)  # sums in another order give other bytes
    write_statements(args.work / "statements")
    sets = [f"data.folder={args.data}", *statement_files(args.config, args.work)]
    of_teacher: list[Figure] = []
    if load_run(args.config, args.sets).distill is not None:
        write_texts(args.data, args.work / "statements")
        teaching = teacher_workspace(args.data, args.backbone, args.work, args.teacher_sets)
        teacher = train_shared(teaching, resume=True).resolve()
        large = load_torch(resolve(teacher))
        of_teacher += [*own_figures(large, teaching), *unseen_figures(large, args.data)]
        sets += [f"distill.teachers=[{teacher}]", f"distill.text.news=[{', '.join(news_texts(args.work))}]"]
    work = Workspace(load_run(args.config, [*sets, *args.sets]), args.work)
    best = best_model(args.work) if has_mixture(args.work) else train_all(work, resume=True)
    calibrate(work, best)
    predictor = load_torch(resolve(best))
    own, unseen = list(own_figures(predictor, work)), list(unseen_figures(predictor, args.data))
    seen = count_seen(work, args.data)
    write_ready(work, best, args.out, args.config, own, unseen, seen)
    groups = {"teacher": of_teacher, "own": own, "unseen": unseen}
    figures = {name: [asdict(figure) for figure in group] for name, group in groups.items()} | {"seen": seen}
    write_text(args.work / "figures.json", json.dumps(figures, indent=1) + "\n")
    for name, group in groups.items():
        for figure in group:
            metrics = {"accuracy": figure.accuracy.value, "macro-F1": figure.macro_f1.value, "ECE": figure.ece}
            values = ", ".join(f"{metric} {value:.3f}" for metric, value in metrics.items())
            print(f"{'teacher, ' if name == 'teacher' else ''}{figure.data}: {values}")
    for name in READY_HASHES:
        print(f'    "{name}": "{sha256_of(args.out / name)}",')


def write_statements(folder: Path) -> None:
    """Write the statements that a program makes, one file for each task of `STATEMENTS`."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, (name, rows) in STATEMENTS.items():
        table = generate_target_statements(rows, SEED) if name == "target" else generate_statements(name, rows, SEED)
        with (folder / f"{task}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)


def write_texts(data: Path, folder: Path) -> None:
    """Write the texts without labels for the news: sentences of company reports, and further statements."""
    lines = (data / FILINGS).read_text(encoding="utf-8").splitlines()
    sentences = [part for line in lines for part in SENTENCE_END.split(line.strip()) if len(part) in SENTENCE_LENGTHS]
    statements = [row["text"] for row in generate_statements("news", UNLABELLED_STATEMENTS, SEED + 1)]
    for name, texts in zip(TEXTS, (sentences, statements), strict=True):
        write_text(folder / name, "\n".join(dict.fromkeys(texts)) + "\n")


def news_texts(out: Path) -> list[str]:
    """Return the files of texts without labels for the news: one data set, and what `write_texts` writes for a run."""
    return ["finentity.jsonl", *(str((out / "statements" / name).resolve()) for name in TEXTS)]


def statement_files(config: Path, out: Path) -> list[str]:
    """Return the settings that name the files of statements for the tasks of a config."""
    return [
        f"domains.{domain}.tasks.{task}.file={(out / 'statements' / f'{task}.csv').resolve()}"
        for domain, settings in load_run(config).domains.items()
        for task in settings.tasks or ()
        if task in STATEMENTS
    ]


def teacher_workspace(data: Path, backbone: Path, out: Path, overrides: Sequence[str]) -> Workspace:
    """Return the run of the teacher, below that of the mixture."""
    sets = [f"data.folder={data}", f"backbone.name={backbone.resolve()}", *statement_files(TEACHER_CONFIG, out)]
    return Workspace(load_run(TEACHER_CONFIG, [*sets, *overrides]), out / "teacher")


def write_ready(
    work: Workspace,
    best: Path,
    out: Path,
    config: Path,
    own: Sequence[Figure],
    unseen: Sequence[Figure],
    seen: dict[str, int],
) -> None:
    """Write the mixture as the package ships it: without paths of this machine, and with its model card."""
    model, card = read_mixture(best)
    data_hashes = work.data_hashes(work.run.domains)
    for expert in model.bank.adapters.values():
        expert.adapter.peft_config["base_model_name_or_path"] = HUB_NAME
    calibration = read_calibration(best)
    assert calibration is not None
    card = card.model_copy(
        update={"versions": {name: version for name, version in card.versions.items() if name != "commit"}}
    )
    count = torch.get_num_threads()
    threads = "one thread" if count == 1 else f"{count} threads"
    machine = f"{platform.machine()}, torch {torch.__version__}, {threads}"
    readme = format_card(card, work, data_hashes, own, unseen, seen, config.name, machine)
    write_mixture(
        out,
        model,
        card,
        config=load_run(config).as_yaml(),
        metrics={"best": dict(card.metrics), "steps": card.steps},
        overwrite=True,
        readme=readme,
    )
    write_calibration(out, calibration.tasks, calibration.routing)
    fit_reference(work, out)
    write_graph(out)


if __name__ == "__main__":
    main()
