"""The addresses of the service, as FastAPI serves and describes them.

What lies behind them is `moe.serve.model_manager`'s; those of language models are `moe.serve.routes_chat`'s, the page
is `moe.serve.app`'. No page loads anything from elsewhere: FastAPI's own pages do, and are switched off.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from starlette.staticfiles import StaticFiles

from experts.errors import Fault
from moe.plots import style as palette
from moe.serve.engine_classify import Asked
from moe.serve.errors import Refused, hang_up, told
from moe.serve.metrics import KIND
from moe.serve.middleware import Guard, Watch
from moe.serve.model_manager import Service
from moe.serve.routes_chat import chat_routes
from moe.serve.routes_explain import explain_routes
from moe.serve.schemas import Health, ModelTold, PredictResponse, Swapped, limits_of, predict_form

LIMITS = (401, 403, 408, 413)  # of the door
PLAIN: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def make_app(service: Service) -> FastAPI:
    """The application around a service, which it starts and closes."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.close()

    app = FastAPI(
        title="FinMoE", version=version("finmoe"), docs_url=None, redoc_url=None, lifespan=life, redirect_slashes=False
    )
    hang_up(app)
    locked = [Security(HTTPBearer(auto_error=False))] if service.settings.keys else []
    routes = APIRouter(dependencies=locked, responses=told(*LIMITS))
    (_label_routes if service.served.told["answers"] == "labels" else chat_routes)(routes, service)
    _model_routes(routes, service)
    app.include_router(routes)
    app.include_router(_open_routes(service))
    app.include_router(page_routes())
    mount_files(app)
    app.add_middleware(Guard, settings=service.settings)
    app.add_middleware(Watch, metrics=service.metrics, alive=lambda: not service.draining)
    _describe(app, service)
    return app


def _label_routes(routes: APIRouter, service: Service) -> None:
    form = predict_form(service.settings)

    @routes.post("/v1/predict", response_model=PredictResponse, responses=told(409, 422, 503, 504))
    async def predict(asked: form, request: Request) -> Response:  # type: ignore[valid-type]
        """Label texts; each answer has the fields of `moe infer --json`."""
        fields: dict[str, Any] = dict(asked)
        texts = fields.pop("texts")
        one = Asked((texts,) if isinstance(texts, str) else tuple(texts), **fields)
        request.scope["texts"] = len(one.texts)
        content = await service.answer(one, len(one.texts))
        service.metrics.answered(row["experts"] for row in content["answers"])
        return JSONResponse(content)

    explain_routes(routes, service)


def _model_routes(routes: APIRouter, service: Service) -> None:
    @routes.get("/v1/model", response_model=ModelTold)
    async def model() -> dict[str, Any]:
        """The model that answers now: experts, labels, hashes; and the most that is taken."""
        return service.served.told | {"limits": limits_of(service.settings)}

    @routes.post("/v1/admin/reload", response_model=Swapped, responses=told(409))
    async def reload() -> dict[str, str]:
        """Read the model's folder again; what does not verify is refused, and the old one goes on."""
        return await service.reload()

    @routes.get("/metrics", response_class=Response, responses=PLAIN)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.page(), media_type=KIND)


def _open_routes(service: Service) -> APIRouter:
    routes = APIRouter(responses=told(403, 408, 413))

    @routes.get("/healthz", response_model=Health)
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @routes.get("/readyz", response_model=Health, responses=told(503))
    async def readyz() -> dict[str, str]:
        """Whether new work is taken."""
        if not service.ready:
            raise Refused(503, Fault("a service that takes work", "one that ends", "ask another one"))
        return {"status": "ready"}

    return routes


def _describe(app: FastAPI, service: Service) -> None:
    """Let OpenAPI name the domains and tasks of the model that answers now."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            labels = service.served.told["labels"]
            tasks = [task for own in labels.values() for task in own]
            for form in ("PredictRequest", "ExplainRequest", "ChatRequest"):
                fields = schema["components"]["schemas"].get(form, {}).get("properties", {})
                for name, known in (("domain", list(labels)), ("task", tasks)):
                    if name in fields:
                        fields[name]["anyOf"][0]["enum"] = known
            app.openapi_schema = schema
        return app.openapi_schema

    def forget() -> None:
        app.openapi_schema = None

    app.openapi = describe  # type: ignore[method-assign]
    service.swapped.append(forget)


FILES = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Only files of this service, nothing inline, and no text that a script could turn into HTML."""
COLOURS = ("BLUE", "ORANGE", "GREEN", "PINK", "SKY", "RED")
"""Of `moe.plots.style`, in the order in which experts take them."""


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
