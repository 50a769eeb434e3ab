"""The command that answers over HTTP.

Imports of ours stand inside it, so that help answers at once; the work lies in `moe.serve`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from moe.commands.options import JsonOption, SetOption, examples, print_view

app = typer.Typer()


@app.command(
    "serve",
    epilog=examples(
        "moe serve runs/demo", "moe serve runs/demo --config service.yaml --port 8001", "moe serve --new-key"
    ),
)
def serve_(
    model: Annotated[
        Path | None, typer.Argument(help="A mixture's, an expert's or a run's folder.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file with the service's settings.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen at; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen at; 8000 by default.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Cores that the model computes with; by default all.")
    ] = None,
    sets: SetOption = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Print a fresh key and its hash, and serve nothing.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Answer over HTTP, many clients at a time."""
    from moe.errors import Fault
    from moe.extras import check_extra
    from moe.serve.auth import generate_key as fresh
    from moe.serve.settings import check_keys_required, read_settings

    if new_key:
        print_view(fresh(), _key_view, json_)
        return
    if model is None:
        raise Fault("a model's folder", "none", "name one: moe serve runs/demo")
    settings = read_settings(config, host=host, port=port)
    check_keys_required(settings)
    check_extra("serve")
    from moe.inference.loading import select_model_folder
    from moe.serve.model_loader import ModelLocation
    from moe.serve.server import serve

    place = ModelLocation(select_model_folder(model, None, None, sets), tuple(sets or ()), settings.batch_tokens)
    serve(settings, place, threads)


def _key_view(found: Any) -> str:
    return (
        f"key     {found['key']}\nsha256  {found['sha256']}\n\n"
        "The key is for who asks, and shown this once. The hash goes into the settings: keys: {NAME: SHA256}."
    )
