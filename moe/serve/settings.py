"""Settings of the service: address, API keys, limits and timeouts; checks that must pass before it starts.

`moe.serve.auth` generates and verifies API keys; settings hold only their hashes.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from experts.errors import Fault
from experts.yaml_io import read_document
from moe.config.messages import validate_settings

Sha256Hex = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class ServeSettings(BaseModel):
    """Settings of one service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on; any other than loopback needs `keys`")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 chooses a free one")
    keys: dict[str, Sha256Hex] = Field(
        {}, description="API keys: owner's name and SHA-256 of the key; without any, only this machine has access"
    )
    protect_openapi: bool = Field(
        False, description="whether `GET /openapi.json`, which names domains and tasks, needs a key if there are `keys`"
    )
    max_connections: int | None = Field(
        None,
        ge=8,
        le=100_000,
        description="maximum number of open connections; null is 1024, or as many as the limit of file descriptors "
        "allows if that is fewer",
    )
    max_header_bytes: int = Field(
        16_384,
        ge=1024,
        le=1_048_576,
        description="maximum bytes of a request line with its headers; more are rejected (431)",
    )
    header_timeout_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="seconds in which a connection must send the headers of a request (408); idle ones between two "
        "requests have 75 s",
    )
    body_pause_s: float = Field(
        10.0, gt=0, le=3600, description="longest pause in seconds while a request body is sent (408)"
    )
    log_lines_per_s: int | None = Field(
        100,
        ge=1,
        le=1_000_000,
        description="log lines per second of one event and status; more are counted in `suppressed` of the next "
        "line; null logs all",
    )
    max_wait_ms: float = Field(
        3.0,
        ge=0,
        le=1000,
        description="milliseconds a request waits for others; more gives larger batches and adds latency",
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        le=10**8,
        description="approximate number of tokens in a batch; null is four forward passes",
    )
    queue_texts: int = Field(
        4096, ge=1, le=10**7, description="maximum number of texts in the queue; more are rejected (503)"
    )
    max_body_bytes: int = Field(
        1_048_576, ge=1024, le=2**30, description="maximum bytes of a request body; a larger one is rejected (413)"
    )
    max_text_chars: int = Field(
        20_000, ge=1, le=10**8, description="maximum characters of a text; a longer one is rejected (422)"
    )
    max_texts: int = Field(256, ge=1, le=10**5, description="maximum texts in a request; more are rejected (422)")
    max_new_tokens: int = Field(
        1024, ge=1, le=10**6, description="maximum tokens of a generated message; a request for more is rejected (422)"
    )
    load_folder: Path | None = Field(
        None,
        description="folder below which models may be loaded at run time, if there are `keys`; null is none",
    )
    max_models: int = Field(
        16, ge=1, le=1000, description="maximum number of models of the process; loading more is rejected (409)"
    )
    timeout_s: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="seconds until a request times out, in receiving its body (408) or computing its result (504)",
    )
    drain_s: float = Field(
        1.0,
        ge=0,
        le=3600,
        description="minimum seconds between not being ready and exit, so that a load balancer notices",
    )


def read_settings(config: Path | None, **overrides: Any) -> ServeSettings:
    """Read settings from a YAML file; `overrides` that are not None take precedence.

    Raises:
        Fault: if the file cannot be read; or naming every invalid setting.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    document = read_document(config) if config else None
    raw, positions = (document.value, document.positions) if document else ({}, {})
    positions = {
        location: position
        for location, position in positions.items()
        if location[:1] not in [(name,) for name in given]
    }
    settings, errors = validate_settings(ServeSettings, raw | given, positions)
    if settings is None:
        source = config or "the command line options"
        raise Fault(f"valid service settings in {source}", "; ".join(errors), "see docs/serving.md")
    return settings


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; host names other than localhost count as reachable by others."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_keys_required(settings: ServeSettings) -> None:
    """Check that a service that other machines can reach has an API key.

    Raises:
        Fault: if it has none, with the address.
    """
    if not settings.keys and not is_loopback(settings.host):
        raise Fault(
            f"API keys, to listen on {settings.host}, which other machines may be able to reach",
            "none",
            "create a key with moe serve --new-key and add its hash under `keys` in the --config file",
        )


def check_load_folder(settings: ServeSettings) -> None:
    """Check that the folder of models that may be loaded at run time is there.

    Raises:
        Fault: if it is set and no folder.
    """
    if settings.load_folder is not None and not settings.load_folder.is_dir():
        raise Fault(f"the folder `load_folder`, {settings.load_folder}", "no such folder", "create it, or remove it")
