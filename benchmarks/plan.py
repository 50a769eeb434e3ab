"""What `moe plan` foretells beside what the run then takes, stage by stage, in processes of their own.

Run: `python benchmarks/plan.py --config configs/demo.yaml`, with `--set` as for a run. Ratios are foretold by taken.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from moe.config.run import load_run
from moe.console import format_duration as told
from moe.runs.training_log import read_trajectory
from moe.runs.workspace import Workspace


def main() -> None:
    """Plan, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--out", type=Path, default=Path("runs/plan"))
    parser.add_argument("--set", dest="sets", action="append", default=[])
    args = parser.parse_args()
    sets = [word for one in args.sets for word in ("--set", one)]
    (planned, spent) = timed("plan", str(args.config), "--out", str(args.out), "--json", *sets)
    found = json.loads(planned)
    work = Workspace(load_run(args.config, args.sets), args.out)
    rest = ("--config", str(args.config), "--out", str(args.out), "--overwrite", *sets)
    console, table = Console(width=150), Table(title=f"{args.config} on {found['machine']}", title_justify="left")
    for name in ("stage", "foretold", "taken", "ratio", "peak foretold, MiB", "taken", "ratio"):
        table.add_column(name)
    taken = foretold_all = 0.0
    for command, stages in commands(found):
        if command[0] == "train-router":
            timed("merge", *rest)
        seconds = timed(*command, *rest)[1]
        taken += seconds
        mine = [one for one in found["stages"] if one["name"] in stages]
        peak = max(row["memory_mib"] for name in stages for row in rows(work, name))
        foretold = found["start_seconds"] + sum(one["seconds"] for one in mine)
        foretold_all += foretold
        table.add_row(*cells(" ".join(command), foretold, seconds, mine, peak))
    console.print(table)
    console.print(
        f"together foretold {told(foretold_all)}, taken {told(taken)}: {foretold_all / taken:.2f}; "
        f"planning took {told(spent)}"
    )


def commands(found: dict[str, Any]) -> list[tuple[tuple[str, ...], list[str]]]:
    """The commands of a run, each with the stages that it trains."""
    names = [one["name"] for one in found["stages"] if one["stage"] == "expert"]
    each = [(("train-expert", "--domain", name), [name]) for name in names]
    return [*each, (("train-router",), ["router-warmup", "moe-joint"])]


def timed(*words: str) -> tuple[str, float]:
    """What a command says on standard output, and the seconds it takes."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "moe", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, time.perf_counter() - start


def rows(work: Workspace, name: str) -> list[dict[str, float]]:
    """A stage's steps as they were logged."""
    log = read_trajectory(work.logs(name))
    assert log is not None
    return log.rows  # type: ignore[return-value]


def cells(name: str, foretold: float, taken: float, mine: list[dict[str, Any]], peak: float) -> list[str]:
    """A row of the table."""
    most = max(one["peak_mib"] for one in mine)
    both = told(foretold), told(taken), f"{foretold / taken:.2f}"
    return [name, *both, f"{most:,.0f}", f"{peak:,.0f}", f"{most / peak:.2f}"]


if __name__ == "__main__":
    main()
