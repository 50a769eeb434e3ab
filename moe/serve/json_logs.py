"""Logging as one JSON object per line on standard error, at a limited rate; request texts are never logged."""

import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

LOGGER_NAME = "moe.serve"
LOGGER = logging.getLogger(LOGGER_NAME)


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object with time, level, event and the fields passed to `log_event`.

    The event of another library's record is the first line of its message; the others show its internal state.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        created = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": created, "level": record.levelname.lower(), "event": record.getMessage().partition("\n")[0]}
        if record.name != LOGGER_NAME:
            line["logger"] = record.name
        return json.dumps(line | getattr(record, "fields", {}) | _error_fields(record), default=str)


def _error_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the type and the stack of the record's exception, without its message, which may contain a text."""
    if not record.exc_info or record.exc_info[1] is None:
        return {}
    error = record.exc_info[1]
    frames = traceback.extract_tb(error.__traceback__)
    stack = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "trace": stack}


class RateLimit(logging.Filter):
    """Passes so many records per second of each kind, and counts the others in `suppressed` of the next of that kind.

    The kind of the service's own records is their event and status; of other loggers' records, logger and level, since
    their messages may differ in every line.

    Args:
        per_second: records of a kind; None passes all.
        clock: returns seconds.
    """

    def __init__(self, per_second: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.per_second, self._clock, self._lock = per_second, clock, threading.Lock()
        self._seconds: dict[tuple[Any, ...], tuple[int, int]] = {}  # by kind: the last second, and its records
        self._suppressed: dict[tuple[Any, ...], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is within the rate; add the number of those before it that were not."""
        if self.per_second is None:
            return True
        fields = getattr(record, "fields", {})
        if record.name == LOGGER_NAME:
            kind: tuple[Any, ...] = (record.msg, fields.get("status"))
        else:
            kind = (record.name.partition(".")[0], record.levelno)
        now = int(self._clock())
        with self._lock:
            second, count = self._seconds.get(kind, (now, 0))
            count = count + 1 if second == now else 1
            self._seconds[kind] = (now, count)
            if count > self.per_second:
                self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
                return False
            suppressed = self._suppressed.pop(kind, 0)
        if suppressed:
            record.fields = {**fields, "suppressed": suppressed}
        return True


def configure_logging(lines_per_second: int | None = None) -> None:
    """Send every record, warning and uncaught exception of this process to standard error as JSON.

    Args:
        lines_per_second: see `RateLimit`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RateLimit(lines_per_second))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    adopt_library_loggers()
    LOGGER.setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a failing standard error would print tracebacks to itself
    sys.excepthook = lambda _, error, __: log_event("error", logging.CRITICAL, error)
    threading.excepthook = lambda args: log_event("error", logging.ERROR, args.exc_value)
    sys.unraisablehook = lambda args: log_event("error", logging.ERROR, args.exc_value)


def adopt_library_loggers() -> None:
    """Take the handlers of libraries that write to standard error themselves, such as transformers.

    Does nothing before `configure_logging`; call it again after a library was imported.
    """
    if not any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers):
        return
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers, logger.propagate = [], True


def log_event(event: str, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Log one event with its fields."""
    LOGGER.log(level, event, extra={"fields": fields}, exc_info=error)
