"""The command that hands a model on: export.

Imports of ours stand inside the command, so that help answers at once; what is written lies in `moe.export`.
"""

from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import ConfigOption, JsonOption, OptionalModelArgument, examples, print_view

app = typer.Typer()


@app.command(
    "export",
    epilog=examples(
        "moe export runs/demo/moe-joint --to peft",
        "moe export runs/demo/moe-joint --to dense --merge linear --weights news=0.7,forum=0.3",
        "moe export runs/demo/moe-joint --to onnx --out onnx",
    ),
)
def export_(
    model: OptionalModelArgument = None,
    to: Annotated[str, typer.Option("--to", help="peft, dense, onnx, openvino or hub-folder.")] = "peft",
    expert: Annotated[
        list[str] | None, typer.Option("--expert", help="Only this expert; may be given several times.")
    ] = None,
    merge: Annotated[
        str | None,
        typer.Option("--merge", help="Weigh experts into one: linear, cat, svd, ties, dare_linear, dare_ties, …"),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="With --merge, e.g. news=0.7,forum=0.3; else all alike.")
    ] = None,
    density: Annotated[
        float | None, typer.Option("--density", help="Share of entries that ties and dare keep; 0.5 if not said.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="Rank that svd cuts to; the largest expert's if not said.")
    ] = None,
    quantized: Annotated[
        bool, typer.Option("--quantized", help="Fold into 4 or 8 bits again, with rounding, not into 16.")
    ] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="The licence that the hub's card names, e.g. apache-2.0.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder to write; export/TO beside the model.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take the place of a folder that is there.")] = False,
    config: ConfigOption = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Load the backbone otherwise, e.g. backbone.dtype=bfloat16.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a model for other programs: PEFT adapters, folded weights, ONNX, OpenVINO, a folder for the hub."""
    from moe.export.export import ExportRequest, export, export_view
    from moe.inference.loading import select_model_folder

    folder = select_model_folder(model, config, None, None) if model is None else model
    how = (tuple(expert or ()), merge, weights, density, rank, quantized, license_, tuple(sets or ()), overwrite)
    print_view(export(ExportRequest(folder, to, out, *how)), export_view, json_)
