"""The estimates of `moe plan` against the measured time and memory of the run, stage by stage.

Run: `python benchmarks/plan.py --config configs/demo.yaml`, with `--set` as for a run. Every step runs in a separate
process. Ratios are estimated by measured.
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
from moe.console import format_duration
from moe.runs.training_log import read_trajectory
from moe.runs.workspace import Workspace


def main() -> None:
    """Plan, run, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--out", type=Path, default=Path("runs/plan"))
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    args = parser.parse_args()
    sets = [word for override in args.sets for word in ("--set", override)]
    output, planning_seconds = run_moe("plan", str(args.config), "--run", str(args.out), "--json", *sets)
    plan = json.loads(output)
    work = Workspace(load_run(args.config, args.sets), args.out)
    options = ("--config", str(args.config), "--run", str(args.out), "--overwrite", *sets)
    console, table = Console(width=150), Table(title=f"{args.config} on {plan['machine']}", title_justify="left")
    for name in ("step", "estimated", "measured", "ratio", "estimated peak, MiB", "measured", "ratio"):
        table.add_column(name)
    total_measured = total_estimated = 0.0
    for command, names in training_commands(plan):
        if command[0] == "train-router":
            run_moe("merge", *options)
        measured = run_moe(*command, *options)[1]
        total_measured += measured
        stages = [stage for stage in plan["stages"] if stage["name"] in names]
        peak = max(row["memory_mib"] for name in names for row in read_log(work, name))
        estimated = plan["start_seconds"] + sum(stage["seconds"] for stage in stages)
        total_estimated += estimated
        estimated_peak = max(stage["peak_mib"] for stage in stages)
        table.add_row(
            " ".join(command),
            format_duration(estimated),
            format_duration(measured),
            f"{estimated / measured:.2f}",
            f"{estimated_peak:,.0f}",
            f"{peak:,.0f}",
            f"{estimated_peak / peak:.2f}",
        )
    console.print(table)
    console.print(
        f"total: estimated {format_duration(total_estimated)}, measured {format_duration(total_measured)}: "
        f"{total_estimated / total_measured:.2f}; planning took {format_duration(planning_seconds)}"
    )


def training_commands(plan: dict[str, Any]) -> list[tuple[tuple[str, ...], list[str]]]:
    """Return the training commands of a run, each with the names of the stages that it trains."""
    experts = [stage["name"] for stage in plan["stages"] if stage["stage"] == "expert"]
    shared = [stage["name"] for stage in plan["stages"] if stage["stage"] == "shared"]
    commands: list[tuple[tuple[str, ...], list[str]]] = [(("train-expert", "--shared"), [name]) for name in shared]
    commands += [(("train-expert", "--domain", name), [name]) for name in experts]
    return [*commands, (("train-router",), ["router-warmup", "moe-joint"])]


def run_moe(*words: str) -> tuple[str, float]:
    """Run a command, and return its standard output and its duration in seconds."""
    start = time.perf_counter()
    process = subprocess.run([sys.executable, "-m", "moe", *words], check=True, stdout=subprocess.PIPE, text=True)
    return process.stdout, time.perf_counter() - start


def read_log(work: Workspace, name: str) -> list[dict[str, Any]]:
    """Return the logged steps of a stage."""
    log = read_trajectory(work.logs(name))
    assert log is not None
    return log.rows


if __name__ == "__main__":
    main()
