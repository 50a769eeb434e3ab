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
from moe.serve.engine_classify import ClassifyRequest
from moe.serve.errors import RequestError, add_error_handlers, error_responses
from moe.serve.metrics import METRICS_CONTENT_TYPE
from moe.serve.middleware import AccessMiddleware, TelemetryMiddleware
from moe.serve.model_manager import ModelManager
from moe.serve.routes_chat import add_chat_routes
from moe.serve.routes_explain import add_explain_routes
from moe.serve.schemas import HealthStatus, ModelInfo, PredictResponse, ReloadResult, request_limits, build_predict_request

AUTH_STATUSES = (401, 403, 408, 413)  # of the door
PLAIN_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def build_app(service: ModelManager) -> FastAPI:
    """The application around a service, which it starts and closes."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.close()

    app = FastAPI(
        title="FinMoE", version=version("finmoe"), docs_url=None, redoc_url=None, lifespan=life, redirect_slashes=False
    )
    add_error_handlers(app)
    locked = [Security(HTTPBearer(auto_error=False))] if service.settings.keys else []
    routes = APIRouter(dependencies=locked, responses=error_responses(*AUTH_STATUSES))
    (_label_routes if service.served.told["answers"] == "labels" else add_chat_routes)(routes, service)
    _model_routes(routes, service)
    app.include_router(routes)
    app.include_router(_open_routes(service))
    app.include_router(build_page_router())
    mount_page_files(app)
    app.add_middleware(AccessMiddleware, settings=service.settings)
    app.add_middleware(TelemetryMiddleware, metrics=service.metrics, alive=lambda: not service.draining)
    _describe(app, service)
    return app


def _label_routes(routes: APIRouter, service: ModelManager) -> None:
    form = build_predict_request(service.settings)

    @routes.post("/v1/predict", response_model=PredictResponse, responses=error_responses(409, 422, 503, 504))
    async def predict(asked: form, request: Request) -> Response:  # type: ignore[valid-type]
        """Label texts; each answer has the fields of `moe infer --json`."""
        fields: dict[str, Any] = dict(asked)
        texts = fields.pop("texts")
        one = ClassifyRequest((texts,) if isinstance(texts, str) else tuple(texts), **fields)
        request.scope["texts"] = len(one.texts)
        content = await service.answer(one, len(one.texts))
        service.metrics.answered(row["experts"] for row in content["answers"])
        return JSONResponse(content)

    add_explain_routes(routes, service)


def _model_routes(routes: APIRouter, service: ModelManager) -> None:
    @routes.get("/v1/model", response_model=ModelInfo)
    async def model() -> dict[str, Any]:
        """The model that answers now: experts, labels, hashes; and the most that is taken."""
        return service.served.told | {"limits": request_limits(service.settings)}

    @routes.post("/v1/admin/reload", response_model=ReloadResult, responses=error_responses(409))
    async def reload() -> dict[str, str]:
        """Read the model's folder again; what does not verify is refused, and the old one goes on."""
        return await service.reload()

    @routes.get("/metrics", response_class=Response, responses=PLAIN_TEXT)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.page(), media_type=METRICS_CONTENT_TYPE)


def _open_routes(service: ModelManager) -> APIRouter:
    routes = APIRouter(responses=error_responses(403, 408, 413))

    @routes.get("/healthz", response_model=HealthStatus)
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @routes.get("/readyz", response_model=HealthStatus, responses=error_responses(503))
    async def readyz() -> dict[str, str]:
        """Whether new work is taken."""
        if not service.ready:
            raise RequestError(503, Fault("a service that takes work", "one that ends", "ask another one"))
        return {"status": "ready"}

    return routes


def _describe(app: FastAPI, service: ModelManager) -> None:
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


PAGE_FOLDER = Path(__file__).parent / "page"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Only files of this service, nothing inline, and no text that a script could turn into HTML."""
PAGE_COLOURS = ("BLUE", "ORANGE", "GREEN", "PINK", "SKY", "RED")
"""Of `moe.plots.style`, in the order in which experts take them."""


def build_page_router() -> APIRouter:
    """The page, and its colours."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def page() -> Response:
        return FileResponse(PAGE_FOLDER / "index.html", headers={"Content-Security-Policy": PAGE_POLICY})

    @routes.get("/page/palette.css")
    async def colours() -> Response:
        lines = "".join(f"  --{name.lower()}: {getattr(palette, name)};\n" for name in PAGE_COLOURS)
        return Response(f":root {{\n{lines}}}\n", media_type="text/css")

    return routes


def mount_page_files(app: FastAPI) -> None:
    """Serve what the page is made of, below `/page`."""
    app.mount("/page", StaticFiles(directory=PAGE_FOLDER))
