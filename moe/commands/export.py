"""The export command."""

from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import (
    ConfigOption,
    JsonOption,
    OptionalModelArgument,
    RenamedOptions,
    TextColumnOption,
    check_number,
    examples,
    print_view,
)

app = typer.Typer()


@app.command(
    "export",
    cls=RenamedOptions,
    epilog=examples(
        "moe export runs/demo/moe-joint --to dense --merge linear --weights news=0.7,forum=0.3",
        "moe export runs/demo/moe-joint --to onnx --out-dir onnx",
        "moe export runs/demo/moe-joint --to graph --int8 --file posts.csv",
    ),
)
def export_(
    model: OptionalModelArgument = None,
    to: Annotated[
        str, typer.Option("--to", help="Format: peft, vllm, dense, graph, onnx, openvino or hub-folder.")
    ] = "peft",
    expert: Annotated[list[str] | None, typer.Option("--expert", help="Only this expert (repeatable).")] = None,
    merge: Annotated[
        str | None,
        typer.Option("--merge", help="Merge experts into one adapter: linear, cat, svd, ties, dare_linear, …"),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Weights for --merge, e.g. news=0.7,forum=0.3; default: equal.")
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            "--density",
            min=0,
            max=1,
            callback=check_number,
            help="Fraction of entries that ties and dare retain; default: 0.5.",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", min=1, max=65_536, help="Rank of the svd merge; default: the largest expert's."),
    ] = None,
    quantized: Annotated[
        bool, typer.Option("--quantized", help="Merge into 4 or 8 bits again, with rounding, instead of 16.")
    ] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="Licence on the hub's model card, e.g. apache-2.0.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out-dir", "-o", help="Output folder; default: export/TO next to the model.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing folder.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="With --to graph: also an INT8 graph, for --runtime int8; needs --file.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Texts on which labels and speed of the INT8 graph are compared with fp32."),
    ] = None,
    text_column: TextColumnOption = "text",
    config: ConfigOption = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a backbone setting, e.g. backbone.dtype=bfloat16."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Export a model: PEFT adapters, merged weights, its graph, ONNX, OpenVINO, or a folder for the hub."""
    from moe.export.export import ExportRequest, export, export_view
    from moe.inference.text_io import TextSource
    from moe.runs.model_ref import resolve

    request = ExportRequest(
        model=resolve(model, config=config).folder,
        to=to,
        out=out,
        experts=tuple(expert or ()),
        merge=merge,
        weights=weights,
        density=density,
        rank=rank,
        quantized=quantized,
        license_id=license_,
        sets=tuple(sets or ()),
        overwrite=overwrite,
        int8=int8,
        texts=TextSource(file=file, text_column=text_column),
    )
    print_view(export(request), export_view, json_)
