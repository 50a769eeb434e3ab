"""What the service writes while it runs: a JSON object a line on standard error, never a text that was sent.

What is worth a line is told where it happens.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

LOGGER_NAME = "moe.serve"
LOGGER = logging.getLogger(LOGGER_NAME)


class JsonFormatter(logging.Formatter):
    """A record as a JSON object: time, level, event, and the fields that were given with it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(line | getattr(record, "fields", {}) | _trace(record), default=str)


def _trace(record: logging.LogRecord) -> dict[str, Any]:
    """Where an error came from: its kind and lines, without its words, in which a text might stand."""
    if not record.exc_info or record.exc_info[1] is None:
        return {}
    error = record.exc_info[1]
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__name__, "trace": [f"{one.filename}:{one.lineno} {one.name}" for one in frames]}


def configure_logging() -> None:
    """Send our lines, and uvicorn's warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in ((LOGGER_NAME, logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def log_event(event: str, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Write one line."""
    LOGGER.log(level, event, extra={"fields": fields}, exc_info=error)
