"""Settings of the service: where it listens, how much it takes, who may ask; and what makes it refuse to start.

Which keys there are is told by their hashes alone; how a key is made and known is `moe.serve.auth`'.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from experts.errors import Fault
from moe.config.messages import format_error
from moe.config.yaml import read_yaml

Sha256Hex = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class ServeSettings(BaseModel):
    """One service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen at; any but this machine's own needs `keys`")
    port: int = Field(8000, ge=0, le=65535, description="port to listen at; 0 takes a free one")
    keys: dict[str, Sha256Hex] = Field(
        {}, description="who may ask: a name, and the SHA-256 of the key; none on this machine"
    )
    max_wait_ms: float = Field(
        3.0, ge=0, le=1000, description="milliseconds a text waits for others; more fills batches of few clients"
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens, about, that are taken from the queue together; none is four passes of the model",
    )
    queue_texts: int = Field(4096, ge=1, description="texts that may wait; more come back later (503)")
    max_body_bytes: int = Field(1_048_576, ge=1024, description="bytes of a request's body; more is refused (413)")
    max_text_chars: int = Field(20_000, ge=1, description="characters of a text; a longer one is refused (422)")
    max_texts: int = Field(256, ge=1, description="texts of a request; more are refused (422)")
    max_new_tokens: int = Field(1024, ge=1, description="tokens that a chat's answer may have; more is refused (422)")
    timeout_s: float = Field(
        60.0, gt=0, description="seconds until a request is given up: its body (408), then its answer (504)"
    )
    drain_s: float = Field(
        1.0,
        ge=0,
        description="least seconds between not being ready and the end; as long as a load balancer needs to see it",
    )


def read_settings(config: Path | None, **over: Any) -> ServeSettings:
    """Settings from a YAML file, with what the command line says laid over.

    Raises:
        Fault: when the file is unreadable, or with every setting that is wrong.
    """
    raw = (read_yaml(config) if config else {}) | {name: value for name, value in over.items() if value is not None}
    try:
        return ServeSettings.model_validate(raw)
    except ValidationError as error:
        wrong = "; ".join(format_error(one, model=ServeSettings) for one in error.errors())
        raise Fault(f"settings of the service in {config or 'the options'}", wrong, "see docs/serving.md") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name that is no address counts as reachable by others."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_keys_required(settings: ServeSettings) -> None:
    """Refuse to listen where others can reach it, without a key.

    Raises:
        Fault: naming the address.
    """
    if not settings.keys and not is_loopback(settings.host):
        raise Fault(
            f"keys, to listen at {settings.host}, which other machines may reach",
            "none",
            "make one with moe serve --new-key and put its hash under keys in the file of --config",
        )
