"""The serve command: a model over HTTP."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moe.commands.options import DEFAULT_MODEL_HELP, JsonOption, RuntimeOption, SetOption, examples, print_view

app = typer.Typer()
MODELS_HELP = f"{DEFAULT_MODEL_HELP} Several are served by one process, each as NAME or as NAME=MODEL."


@app.command(
    "serve",
    epilog=examples(
        "moe serve runs/demo --config service.yaml --port 8001",
        "moe serve runs/demo filings=runs/filings",
        "moe serve --new-key",
    ),
)
def serve_(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help=MODELS_HELP, show_default=False)] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Service settings (YAML).")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on; default: 8000.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=4096, help="CPU cores for the model; default: all.")
    ] = None,
    runtime: RuntimeOption = "auto",
    sets: SetOption = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="Print a new API key and its hash, and exit.")] = False,
    json_: JsonOption = False,
) -> None:
    """Serve models over HTTP: JSON API and web page."""
    from moe.extras import check_extra
    from moe.serve.auth import generate_key
    from moe.serve.settings import check_keys_required, read_settings

    if new_key:
        print_view(generate_key(), _key_view, json_)
        return
    settings = read_settings(config, host=host, port=port)
    check_keys_required(settings)
    check_extra("serve")
    from moe.inference.load import LoadOptions, check_runtime
    from moe.serve.hosted_model import parse_sources
    from moe.serve.server import serve

    options = LoadOptions(sets=tuple(sets or ()), runtime=check_runtime(runtime), threads=threads)
    options.check()
    serve(settings, parse_sources(models or ()), options)


def _key_view(key: Any) -> str:
    return (
        f"key     {key['key']}\nsha256  {key['sha256']}\n\n"
        "Give the key to the client; it is shown only once. Put the hash into the settings: keys: {NAME: SHA256}."
    )
