"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter` in vLLM's form: models that come and go at run time.

A model is the folder of an expert (an adapter with its heads) or of a mixture, below `load_folder` of the settings.
"""

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field, StringConstraints

from experts.errors import Fault
from moe.serve.errors import RequestError, error_responses
from moe.serve.model_manager import ModelManager
from moe.serve.schemas import MAX_NAME, STRICT_CONFIG
from moe.serve.settings import ServeSettings

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=MAX_NAME)]
MAX_PATH = 4096
SUCCESS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


class LoadAdapterRequest(BaseModel):
    """A model to load."""

    model_config = STRICT_CONFIG

    lora_name: ModelName = Field(description="name under which requests ask for it")
    lora_path: str = Field(min_length=1, max_length=MAX_PATH, description="its folder, in or below `load_folder`")
    load_inplace: bool = Field(False, description="replace a model of this name that was loaded at run time")


class UnloadAdapterRequest(BaseModel):
    """A model to unload."""

    model_config = STRICT_CONFIG

    lora_name: ModelName


def add_adapter_routes(routes: APIRouter, manager: ModelManager) -> None:
    """Add the routes, which are off without API keys and a folder to load from."""

    @routes.post(
        "/v1/load_lora_adapter",
        responses=SUCCESS | error_responses(403, 409, 422),
        summary="Load a model at run time",
    )
    async def load_adapter(body: LoadAdapterRequest) -> Response:
        """Verify, load and test a model; requests can name it when the response is sent."""
        folder = find_folder(check_enabled(manager.settings), body.lora_path)
        await _finish(manager.load_model(body.lora_name, folder, replace=body.load_inplace))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @routes.post(
        "/v1/unload_lora_adapter",
        responses=SUCCESS | error_responses(403, 404, 409, 422),
        summary="Unload a model that was loaded at run time",
    )
    async def unload_adapter(body: UnloadAdapterRequest) -> Response:
        """Answer no further requests with a model, and return when those under way are answered."""
        check_enabled(manager.settings)
        await _finish(manager.unload_model(body.lora_name))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


async def _finish(work: Any) -> None:
    await asyncio.shield(asyncio.ensure_future(work))  # goes on if the client disconnects


def check_enabled(settings: ServeSettings) -> Path:
    """Return the folder below which models may be loaded.

    Raises:
        RequestError: 403 if there are no API keys, or no folder is set.
    """
    if not settings.keys:
        remedy = "create a key with moe serve --new-key and add its hash under `keys` in the --config file"
        raise RequestError(403, Fault("API keys, to load or unload models at run time", "none", remedy))
    if settings.load_folder is None:
        remedy = "set load_folder in the --config file"
        raise RequestError(403, Fault("a folder to load models from at run time", "none", remedy))
    return settings.load_folder


def find_folder(root: Path, path: str) -> Path:
    """Return a folder in or below `root`, of an absolute path or one relative to it; links are followed.

    Raises:
        RequestError: 422 if it is elsewhere, or there is none; the error does not say which.
    """
    root = root.resolve()
    try:
        folder = (root / path).resolve()
        is_inside = folder.is_relative_to(root) and folder.is_dir()
    except (OSError, ValueError, RuntimeError):  # a NUL, a name that is too long, a loop of links
        is_inside = False
    if not is_inside:
        fault = Fault("a folder in or below `load_folder`", "no such folder", "copy the model there, and send its path")
        raise RequestError(422, fault)
    return folder
