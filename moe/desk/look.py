"""Commands to look before and after: check, plan, verify, sample.

Imports of ours stand inside the commands, so that help answers at once; no weight is trained here.
"""

from pathlib import Path
from typing import Annotated

import typer

from moe.desk.options import (
    JsonOption,
    OutOption,
    SetOption,
    show,
    workspace,
)

app = typer.Typer()


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="The config or the sweep file to check.")],
    sets: SetOption = None,
) -> None:
    """Tell every fault of a config, or of a sweep file, at once; no weight is loaded."""
    from moe.check import check_config
    from moe.sweep.plan import check_sweep, is_sweep

    typer.echo((check_sweep if is_sweep(config) else check_config)(config, sets or ()))


@app.command("plan")
def plan_(
    config: Annotated[Path | None, typer.Argument(help="The config; configs/demo.yaml by default.")] = None,
    out: OutOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Foretell a run's weights, memory and time from a few steps of each stage; trains nothing that is kept."""
    from moe.plan import plan, plan_view

    show(plan(workspace(config, out, sets)), plan_view, json_)


@app.command("verify")
def verify_(
    folder: Annotated[Path, typer.Argument(help="An expert, a mixture, or a run folder with several.")],
    json_: JsonOption = False,
) -> None:
    """Hold files against their hashes, tensors against the card; exit code 2 where one does not hold."""
    from moe.report import verify_view
    from moe.verify import verify

    found = verify(folder)
    show(found, verify_view, json_)
    raise typer.Exit(2 if found["faults"] else 0)


@app.command()
def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")],
    rows: Annotated[int, typer.Option("--rows", help="Texts a domain.")] = 2400,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other texts.")] = 13,
) -> None:
    """Write the made-up sample: for seeing the pipeline run, never for quoting accuracy."""
    from moe.sample import DOMAINS, write_sample

    for path in write_sample(out, rows=rows, seed=seed, domains=DOMAINS):
        typer.echo(str(path))
