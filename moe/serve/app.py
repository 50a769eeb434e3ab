"""The FastAPI application: routes, OpenAPI document and web page.

No page loads anything from another site; FastAPI's own documentation pages do, and are disabled.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.staticfiles import StaticFiles

from experts.errors import Fault
from moe.data.text_checks import MAX_TARGETS
from moe.plots import style as palette
from moe.serve.engine_classify import ClassifyRequest
from moe.serve.errors import RequestError, StrictRoute, add_error_handlers, encode_answer, error_responses
from moe.serve.interfaces.adapters import add_adapter_routes
from moe.serve.interfaces.answers import QueryName
from moe.serve.interfaces.chat import add_chat_routes
from moe.serve.interfaces.classify import add_classify_route
from moe.serve.interfaces.models import add_models_route
from moe.serve.interfaces.predict import add_scores_route
from moe.serve.metrics import METRICS_CONTENT_TYPE
from moe.serve.middleware import AccessMiddleware, TelemetryMiddleware
from moe.serve.model_manager import ModelManager
from moe.serve.routes_card import add_card_route
from moe.serve.routes_explain import add_explain_routes
from moe.serve.schemas import (
    HealthStatus,
    ModelInfo,
    PredictResponse,
    ReloadResult,
    build_predict_request,
    request_limits,
    validated_by,
)
from moe.serve.settings import ServeSettings

DESCRIPTION = "Financial text classification and generation with a mixture of domain experts."
AUTH_STATUSES = (401, 403, 408, 413, 415, 503)  # of `AccessMiddleware`
REQUESTS = ("PredictRequest", "ExplainRequest", "ChatRequest", "ScoresRequest", "ClassifyRequest")
PLAIN_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def build_app(manager: ModelManager, max_active: int | None = None) -> FastAPI:
    """Build the application, which starts the manager at startup and closes it at shutdown.

    Args:
        max_active: requests answered at a time, apart from those for `/healthz` and `/readyz`; None is without limit.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        manager.start()
        yield
        await manager.close()

    app = FastAPI(
        title="FinMoE",
        description=DESCRIPTION,
        version=version("finmoe"),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    add_error_handlers(app)
    security = [Security(HTTPBearer(auto_error=False))] if manager.settings.keys else []
    routes = APIRouter(dependencies=security, responses=error_responses(*AUTH_STATUSES), route_class=StrictRoute)
    if manager.served.info["answers"] == "labels":
        _add_predict_routes(routes, manager)
    else:
        add_chat_routes(routes, manager)
    _add_model_routes(routes, manager)
    add_models_route(routes, manager)
    add_adapter_routes(routes, manager)
    add_card_route(routes, manager)
    app.include_router(routes)
    app.include_router(_build_health_router(manager))
    app.include_router(build_page_router())
    mount_page_files(app)
    app.add_middleware(AccessMiddleware, settings=manager.settings, max_active=max_active)
    app.add_middleware(TelemetryMiddleware, metrics=manager.metrics, keep_alive=lambda: not manager.draining)
    _describe_current_model(app, manager)
    return app


def _add_predict_routes(routes: APIRouter, manager: ModelManager) -> None:
    @routes.post(
        "/v1/predict",
        response_model=PredictResponse,
        responses=error_responses(404, 409, 422, 504),
        summary="Classify texts",
    )
    @validated_by(build_predict_request(manager.settings))
    async def predict(body: BaseModel, request: Request) -> Response:
        """Return label, probabilities and routing weights of each text; the fields are those of `moe infer --json`."""
        fields: dict[str, Any] = dict(body)
        texts, targets, model = fields.pop("texts"), tuple(fields.pop("targets")), manager.find(fields.pop("model"))
        classify_request = ClassifyRequest(
            (texts,) if isinstance(texts, str) else tuple(texts), targets=targets, **fields
        )
        count = check_predictions(classify_request, manager.settings)
        request.scope["texts"] = count
        content = await manager.run(classify_request, count, model)
        answer = encode_answer(content)
        manager.metrics.count_results(row["experts"] for row in content["answers"])
        return Response(answer, media_type="application/json")

    add_explain_routes(routes, manager)
    add_scores_route(routes, manager)
    add_classify_route(routes, manager)


def check_predictions(request: ClassifyRequest, settings: ServeSettings) -> int:
    """Return the number of predictions of a request, each text for each target.

    Raises:
        RequestError: 422 if there are more than a request may have texts or targets.
    """
    count = len(request.texts) * max(1, len(request.targets))
    limit = max(settings.max_texts, MAX_TARGETS)
    if count > limit:
        pairs = f"{len(request.texts)} texts for {len(request.targets)} targets"
        raise RequestError(422, Fault(f"at most {limit} pairs of a text and a target", pairs, "send several requests"))
    return count


def _add_model_routes(routes: APIRouter, manager: ModelManager) -> None:
    @routes.get(
        "/v1/model", response_model=ModelInfo, responses=error_responses(404, 422), summary="Get the model in use"
    )
    async def model_info(model: QueryName = None) -> dict[str, Any]:
        """Return experts, labels and hashes of the model in use, and the limits of a request."""
        served = manager.find(model).served
        return served.info | {"card": served.card is not None, "limits": request_limits(manager.settings)}

    @routes.post(
        "/v1/admin/reload",
        response_model=ReloadResult,
        responses=error_responses(404, 409, 422),
        summary="Reload the model",
    )
    async def reload(model: QueryName = None) -> dict[str, str]:
        """Load the model's folder again; if verification fails, respond with 409 and keep the current model."""
        return await asyncio.shield(asyncio.ensure_future(manager.reload(model)))  # goes on if the client disconnects

    @routes.get("/metrics", response_class=Response, responses=PLAIN_TEXT, summary="Get metrics")
    async def metrics() -> Response:
        """Return metrics in Prometheus text format."""
        return Response(manager.metrics.render(), media_type=METRICS_CONTENT_TYPE)


def _build_health_router(manager: ModelManager) -> APIRouter:
    """Build the routes that need no key."""
    routes = APIRouter(responses=error_responses(403, 408, 413, 415))

    @routes.get("/healthz", response_model=HealthStatus, summary="Check liveness")
    async def healthz() -> dict[str, str]:
        """Return 200 while the process is running."""
        return {"status": "ok"}

    @routes.get("/readyz", response_model=HealthStatus, responses=error_responses(503), summary="Check readiness")
    async def readyz() -> dict[str, str]:
        """Return 200 while new requests are accepted, 503 during shutdown."""
        if not manager.ready:
            raise RequestError(503, Fault("a running service", "one that is shutting down", "use another instance"))
        return {"status": "ready"}

    return routes


def _describe_current_model(app: FastAPI, manager: ModelManager) -> None:
    """List the domains and tasks of the models in use in the OpenAPI document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            labels = [model.served.info["labels"] for model in manager.models.values()]
            domains = list(dict.fromkeys(domain for by_domain in labels for domain in by_domain))
            tasks = list(dict.fromkeys(task for by in labels for by_task in by.values() for task in by_task))
            for name in REQUESTS:
                fields = schema["components"]["schemas"].get(name, {}).get("properties", {})
                for field, known in (("domain", domains), ("task", tasks)):
                    if field in fields:
                        fields[field]["anyOf"][0]["enum"] = known
            operations = (operation for path in schema["paths"].values() for operation in path.values())
            for parameter in (each for operation in operations for each in operation.get("parameters", [])):
                if parameter["name"] == "task":
                    parameter["schema"]["anyOf"][0]["enum"] = tasks
            app.openapi_schema = schema
        return app.openapi_schema

    def reset() -> None:
        app.openapi_schema = None

    app.openapi = openapi  # type: ignore[method-assign]
    manager.on_change.append(reset)


PAGE_FOLDER = Path(__file__).parent / "page"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy of the page: only files of this service, nothing inline, no conversion of text to HTML."""
PAGE_COLOURS = ("BLUE", "ORANGE", "GREEN", "PINK", "SKY", "RED")
"""Names in `moe.plots.style`, in the order in which experts are assigned them."""


def build_page_router() -> APIRouter:
    """Build the routes of the web page and its colours."""
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
    """Serve the files of the web page below `/page`."""
    app.mount("/page", StaticFiles(directory=PAGE_FOLDER))
