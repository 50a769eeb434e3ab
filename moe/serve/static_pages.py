"""The page for people: its files as they lie in `page/`, and the headers that let it load nothing but them.

What the page asks and shows is written in its own modules; what it asks is `moe.serve.app`'s.
"""

from pathlib import Path

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from moe.plots import palette

FILES = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Only files of this service, nothing inline, and no text that a script could turn into HTML."""
COLOURS = ("BLUE", "ORANGE", "GREEN", "PINK", "SKY", "RED")
"""Of `moe.plots.palette`, in the order in which experts take them."""


def page_routes() -> APIRouter:
    """The page, and its colours."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def page() -> Response:
        return FileResponse(FILES / "index.html", headers={"Content-Security-Policy": POLICY})

    @routes.get("/page/palette.css")
    async def colours() -> Response:
        lines = "".join(f"  --{name.lower()}: {getattr(palette, name)};\n" for name in COLOURS)
        return Response(f":root {{\n{lines}}}\n", media_type="text/css")

    return routes


def mount_files(app: FastAPI) -> None:
    """Serve what the page is made of, below `/page`."""
    app.mount("/page", StaticFiles(directory=FILES))
