"""Logging as one JSON object per line on standard error; request texts are never logged."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

LOGGER_NAME = "moe.serve"
LOGGER = logging.getLogger(LOGGER_NAME)


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object with time, level, event and the fields passed to `log_event`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        created = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": created, "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(line | getattr(record, "fields", {}) | _error_fields(record), default=str)


def _error_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the type and the stack of the record's exception, without its message, which may contain a text."""
    if not record.exc_info or record.exc_info[1] is None:
        return {}
    error = record.exc_info[1]
    frames = traceback.extract_tb(error.__traceback__)
    stack = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "trace": stack}


def configure_logging() -> None:
    """Send the service's records and uvicorn's warnings to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in ((LOGGER_NAME, logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def log_event(event: str, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Log one event with its fields."""
    LOGGER.log(level, event, extra={"fields": fields}, exc_info=error)
