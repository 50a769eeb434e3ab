"""Commands that inspect without training: check, plan, verify; and the synthetic sample data."""

from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import (
    JsonOption,
    OverwriteFileOption,
    RenamedOptions,
    RunOption,
    SetOption,
    examples,
    open_workspace,
    print_text,
    print_view,
)

app = typer.Typer()


@app.command(epilog=examples("moe check configs/demo.yaml --set lora.r=8"))
def check(
    config: Annotated[Path, typer.Argument(help="Run config or sweep file.")],
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Check a run config or a sweep file: all its errors at once, and warnings about its rows; loads no weights."""
    from moe.config.messages import ConfigFault
    from moe.config.run import load_run
    from moe.evaluation.data_warnings import config_warnings
    from moe.runs.preflight import check_config
    from moe.sweep.grid import check_sweep, is_sweep

    try:
        sweep = is_sweep(config)
        summary = (check_sweep if sweep else check_config)(config, sets or ())
    except ConfigFault as fault:
        if not json_:
            raise
        print_text({"config": str(config), "faults": fault.faults}, "", json_)
        raise typer.Exit(2) from None
    warnings = [] if sweep else config_warnings(load_run(config, sets or ()))
    lines = [summary, *(f"warning: {line}" for line in warnings)]
    print_text({"config": str(config), "faults": [], "warnings": warnings}, "\n".join(lines), json_)


@app.command(
    "plan",
    cls=RenamedOptions,
    epilog=examples("moe plan configs/demo.yaml", "moe plan configs/demo.yaml --set lora.r=64 --json"),
)
def plan_(
    config: Annotated[Path | None, typer.Argument(help="Run config; default: configs/demo.yaml.")] = None,
    run: RunOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Estimate a run's time, memory and parameters from a few steps of each stage, and what makes it shorter."""
    from moe.plan.cost_estimate import estimate_cost
    from moe.plan.view import cost_view

    print_view(estimate_cost(open_workspace(config, run, sets)), cost_view, json_)


@app.command("verify", epilog=examples("moe verify runs/demo", "moe verify runs/demo/moe-joint --json"))
def verify_(
    folder: Annotated[Path, typer.Argument(help="Expert, mixture or run folder, or `ready`.")],
    json_: JsonOption = False,
) -> None:
    """Verify files against their hashes and tensors against the card; exits with 2 on any mismatch."""
    from moe.integrity import verify, verify_view
    from moe.runs.model_ref import READY_FOLDER, names_ready

    verification = verify(READY_FOLDER if names_ready(folder) else folder)
    print_view(verification, verify_view, json_)
    raise typer.Exit(2 if verification.faults else 0)


@app.command(
    cls=RenamedOptions,
    epilog=examples("moe sample --out-dir sample --rows 600 --seed 42", "moe sample --dated -o sample"),
)
def sample(
    out: Annotated[Path, typer.Option("--out-dir", "-o", help="Output folder.")],
    rows: Annotated[int, typer.Option("--rows", min=60, max=10**7, help="Texts per domain.")] = 2400,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Random seed of the texts.")] = 13,
    dated: Annotated[
        bool, typer.Option("--dated", help="With times, what texts are about, and made-up prices, for moe signal.")
    ] = False,
    overwrite: OverwriteFileOption = False,
    json_: JsonOption = False,
) -> None:
    """Write the synthetic sample data, made to try the pipeline and not to report accuracy."""
    from moe.synthetic import DOMAINS, write_market, write_sample

    paths = write_sample(out, rows, seed, DOMAINS, overwrite, dated)
    files = list(map(str, paths + (write_market(out, seed, overwrite) if dated else [])))
    print_text({"files": files}, "\n".join(files), json_)
