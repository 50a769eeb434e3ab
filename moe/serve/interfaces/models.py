"""`GET /v1/models` in OpenAI's form: the models of the process, by the names that requests use."""

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from moe.serve.hosted_model import HostedModel
from moe.serve.model_manager import ModelManager


class ModelEntry(BaseModel):
    """One model."""

    id: str = Field(description="its name, the `model` of requests")
    object: Literal["model"]
    created: int = Field(description="Unix time when it was loaded, in seconds")
    owned_by: Literal["finmoe"]
    max_model_len: int = Field(description="maximum number of tokens per text")
    kind: Literal["mixture", "expert"]
    answers: Literal["labels", "language"] = Field(description="output: labels (classification) or generated text")
    sha256: str = Field(description="SHA-256 of its manifest, the `model` of responses of FinMoE's own routes")
    backbone: str | None = Field(description="name of its backbone")
    labels: dict[str, list[str]] = Field(description="labels by task, in order; the first task answers by default")
    default: bool = Field(description="whether it answers requests that name no model")
    at_run_time: bool = Field(description="whether a request loaded it")


class ModelList(BaseModel):
    """The models, the default one first."""

    object: Literal["list"]
    data: list[ModelEntry]


def add_models_route(routes: APIRouter, manager: ModelManager) -> None:
    """Add the route."""

    @routes.get("/v1/models", response_model=ModelList, summary="List the models")
    async def models() -> dict[str, Any]:
        """Return the models that requests may name."""
        entries = [_describe(model, default=model is manager.default) for model in manager.models.values()]
        return {"object": "list", "data": entries}


def _describe(model: HostedModel, default: bool) -> dict[str, Any]:
    info = model.served.info
    return {
        "id": model.name,
        "object": "model",
        "created": int(datetime.fromisoformat(info["since"]).timestamp()),
        "owned_by": "finmoe",
        "max_model_len": info["max_length"],
        "kind": info["kind"],
        "answers": info["answers"],
        "sha256": info["sha256"],
        "backbone": info["backbone"]["name"],
        "labels": {task: labels for by_task in info["labels"].values() for task, labels in by_task.items()},
        "default": default,
        "at_run_time": model.at_run_time,
    }
