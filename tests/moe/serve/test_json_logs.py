"""Tests of the log: one JSON object per line whoever writes it, at a limited rate, without messages of exceptions."""

import json
import logging
import subprocess
import sys

from serving import log_fields

from moe.serve.json_logs import LOGGER_NAME, RateLimit

SCRIPT = """
import asyncio, errno, logging, sys, threading, warnings
library = logging.getLogger("transformers")
library.addHandler(logging.StreamHandler())
library.propagate = False
from moe.serve.json_logs import adopt_library_loggers, configure_logging, log_event
configure_logging(3)
log_event("serving", url="http://127.0.0.1")
library.warning("first\\nsecond")
later = logging.getLogger("later")
later.addHandler(logging.StreamHandler())
later.propagate = False
adopt_library_loggers()
later.error("from %s", "later")
logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
warnings.warn("odd")

async def main():
    for _ in range(1000):
        asyncio.get_running_loop().call_exception_handler(
            {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "secret text")}
        )

asyncio.run(main())
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()

class Unraisable:
    def __del__(self):
        raise ValueError("secret text")

Unraisable()
raise RuntimeError("secret text")
"""


def test_every_line_is_json_whoever_writes_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert [line["event"] for line in lines[:4]] == [
        "serving", "first", "from later", "Invalid HTTP request received.",
    ]  # fmt: skip
    assert [line.get("logger") for line in lines[:4]] == [None, "transformers", "later", "uvicorn.error"]
    assert "odd" in lines[4]["event"]
    accepts = [line for line in lines if line.get("logger") == "asyncio"]
    assert 3 <= len(accepts) <= 12, "the rate is 3 a second"
    assert {line["error"] for line in accepts} == {"OSError"}
    assert [line["error"] for line in lines[-3:]] == ["ZeroDivisionError", "ValueError", "RuntimeError"]
    assert "secret" not in done.stderr


def record(name: str, message: str, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": name, "levelno": logging.INFO, "msg": message, "fields": fields})


def test_rate_limit_counts_what_it_drops_of_each_kind() -> None:
    now = 0.0
    limit = RateLimit(2, lambda: now)

    def passed(name: str, message: str, count: int, **fields: object) -> int:
        return sum(limit.filter(record(name, message, **fields)) for _ in range(count))

    assert passed(LOGGER_NAME, "request", 50, status=401) == 2
    assert passed(LOGGER_NAME, "request", 1, status=200) == 1
    assert passed(LOGGER_NAME, "error", 1) == 1
    assert sum(limit.filter(record("uvicorn.error", f"message {i}")) for i in range(50)) == 2
    now = 1.0
    following = record(LOGGER_NAME, "request", status=401)
    assert limit.filter(following)
    assert log_fields(following) == {"status": 401, "suppressed": 48}
    assert limit.filter(unsuppressed := record(LOGGER_NAME, "request", status=401))
    assert log_fields(unsuppressed) == {"status": 401}
    assert all(RateLimit(None).filter(record(LOGGER_NAME, "request")) for _ in range(1000))
