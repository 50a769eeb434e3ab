"""Train, evaluate and write the ready mixture, which the package ships as `moe/ready`.

Run: `python benchmarks/ready.py FOLDER`. It trains in `--work` what is missing there, measures, and writes the mixture
with its calibration, drift reference, graph and model card to `--out`. On machines of one kind it writes the same
bytes. Afterwards, copy the printed hashes into `READY_HASHES` of moe/checkpoints/ready.py.
"""

import argparse
import csv
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

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
from moe.synthetic.statements import generate_statements, generate_target_statements
from moe.training.pipeline import train_all

CONFIG = Path(__file__).parent.parent / "configs" / "ready.yaml"
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
"""Name of the shipped backbone on the hub, for PEFT."""
STATEMENTS = {"news": 7500, "forum": 1500, "target": 1500}
"""Number of statements, and of rows about a target."""


def main() -> None:
    """Train what is missing, measure, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the data sets")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--work", type=Path, default=Path("runs/ready"))
    parser.add_argument("--out", type=Path, default=READY_FOLDER)
    parser.add_argument("--set", action="append", default=[], dest="sets", help="override a setting")
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums in another order would give other bytes
    statements = write_statements(args.work / "statements")
    sets = [f"data.folder={args.data}", *statements, *args.sets]
    work = Workspace(load_run(args.config, sets), args.work)
    best = best_model(args.work) if has_mixture(args.work) else train_all(work)
    calibrate(work, best)
    predictor = load_torch(resolve(best))
    own, unseen = list(own_figures(predictor, work)), list(unseen_figures(predictor, args.data))
    seen = count_seen(work, args.data)
    write_ready(work, best, args.out, args.config, own, unseen, seen)
    figures = {"own": [asdict(figure) for figure in own], "unseen": [asdict(figure) for figure in unseen], "seen": seen}
    write_text(args.work / "figures.json", json.dumps(figures, indent=1) + "\n")
    for figure in (*own, *unseen):
        metrics = {"accuracy": figure.accuracy.value, "macro-F1": figure.macro_f1.value, "ECE": figure.ece}
        print(f"{figure.data}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))

    for name in READY_HASHES:
        print(f'    "{name}": "{sha256_of(args.out / name)}",')


def write_statements(folder: Path) -> list[str]:
    """Write the statements that a program makes, and return the settings that name their files."""
    seed = 13
    rows = {
        "news": generate_statements("news", STATEMENTS["news"], seed),
        "forum": generate_statements("forum", STATEMENTS["forum"], seed),
        "target": generate_target_statements(STATEMENTS["target"], seed),
    }
    keys = {"news": "news.tasks.statements", "forum": "forum.tasks.posts", "target": "news.tasks.statement_entities"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in rows.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    return [f"domains.{key}.file={(folder / f'{name}.csv').resolve()}" for name, key in keys.items()]


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
    machine = f"{platform.machine()}, torch {torch.__version__}, one thread"
    readme = format_card(card, work, data_hashes, own, unseen, seen, machine)
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
