"""Commands to look before and after: check, plan, verify, sample.

Imports of ours stand inside the commands, so that help answers at once; no weight is trained here.
"""

from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import (
    JsonOption,
    OutOption,
    SetOption,
    examples,
    print_view,
    print_text,
    open_workspace,
)

app = typer.Typer()


@app.command(epilog=examples("moe check configs/demo.yaml --set lora.r=8"))
def check(
    config: Annotated[Path, typer.Argument(help="The config or the sweep file to check.")],
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Tell every fault of a config, or of a sweep file, at once; no weight is loaded."""
    from moe.config.preflight import check_config
    from moe.config.run import ConfigFault
    from moe.sweep.grid import check_sweep, is_sweep

    try:
        told = (check_sweep if is_sweep(config) else check_config)(config, sets or ())
    except ConfigFault as fault:
        if not json_:
            raise
        print_text({"config": str(config), "faults": fault.faults}, "", json_)
        raise typer.Exit(2) from None
    print_text({"config": str(config), "faults": []}, told, json_)


@app.command("plan", epilog=examples("moe plan configs/demo.yaml", "moe plan configs/demo.yaml --set lora.r=64 --json"))
def plan_(
    config: Annotated[Path | None, typer.Argument(help="The config; configs/demo.yaml by default.")] = None,
    out: OutOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Foretell a run's weights, memory and time from a few steps of each stage; trains nothing that is kept."""
    from moe.training.cost_estimate import estimate_cost, cost_view

    print_view(estimate_cost(open_workspace(config, out, sets)), cost_view, json_)


@app.command("verify", epilog=examples("moe verify runs/demo", "moe verify runs/demo/moe-joint --json"))
def verify_(
    folder: Annotated[Path, typer.Argument(help="An expert, a mixture, or a run folder with several.")],
    json_: JsonOption = False,
) -> None:
    """Hold files against their hashes, tensors against the card; exit code 2 where one does not hold."""
    from moe.integrity import verify
    from moe.report.terminal import verify_view

    found = verify(folder)
    print_view(found, verify_view, json_)
    raise typer.Exit(2 if found["faults"] else 0)


@app.command(epilog=examples("moe sample --out sample --rows 600 --seed 42"))
def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")],
    rows: Annotated[int, typer.Option("--rows", help="Texts a domain.")] = 2400,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other texts.")] = 13,
    json_: JsonOption = False,
) -> None:
    """Write the made-up sample: for seeing the pipeline run, never for quoting accuracy."""
    from moe.synthetic import DOMAINS, write_sample

    files = list(map(str, write_sample(out, rows=rows, seed=seed, domains=DOMAINS)))
    print_text({"files": files}, "\n".join(files), json_)
