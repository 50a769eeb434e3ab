"""Runs `moe` in child processes that are killed at a time, at a file operation or before a file is written."""

import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

WRITE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree")
"""Audit events of operations that change files; `open` counts only if it is for writing."""
CONTEXT = get_context("forkserver")
PRELOADED = (
    *("moe.commands.train", "moe.commands.evaluate", "moe.commands.infer", "moe.commands.export"),
    *(
        "moe.training.pipeline",
        "moe.inference.infer_command",
        "moe.evaluation.calibration.calibrate",
        "moe.export.export",
    ),
    *("moe.export.graph", "sklearn.linear_model", "sklearn.feature_extraction.text", "transformers.models.bert"),
)
UNCOMPARED = {"logs", "checkpoints"}
LIMIT = 1800.0
"""Seconds after which a command that nothing kills counts as hanging."""


def start_server() -> None:
    """Start the process from which commands are forked; it imports everything before the first fork."""
    CONTEXT.set_forkserver_preload(list(PRELOADED))
    first = CONTEXT.Process(target=gc.freeze)
    first.start()
    first.join()


def _child(folder: Path, command: Sequence[str], die_at: int | None, die_before: str, counter: Any) -> None:
    gc.freeze()  # a stage collects garbage; without this, it would search everything that was imported
    os.chdir(folder)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    operations = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal operations
        if event not in WRITE_EVENTS or (event == "open" and not _for_writing(arguments)):
            return
        operations += 1
        counter.value = operations
        if operations == die_at or (die_before and die_before in str(arguments[0])):
            os.kill(os.getpid(), signal.SIGKILL)

    from moe.commands.main import main

    sys.addaudithook(watch)
    sys.argv = ["moe", *command]
    main()


def _for_writing(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@dataclass(frozen=True)
class Process:
    """How a command ended.

    Args:
        code: exit code; −9 if it was killed.
        operations: file operations that it did; 0 for a fresh interpreter, where they are not counted.
        seconds: until its end.
    """

    code: int
    operations: int
    seconds: float


def run_forked(
    folder: Path, command: Sequence[str], after: float | None = None, die_at: int | None = None, die_before: str = ""
) -> Process:
    """Run `moe` in a fork of a process that has imported everything, to its end or to a kill.

    Args:
        after: seconds until the kill.
        die_at: number of the file operation at which it is killed.
        die_before: part of a path; it is killed before the first operation on such a file.
    """
    counter, start = CONTEXT.Value("i", 0), time.perf_counter()
    process = CONTEXT.Process(target=_child, args=(folder, command, die_at, die_before, counter))
    process.start()
    process.join(LIMIT if after is None else after)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return Process(process.exitcode, counter.value, time.perf_counter() - start)


def run_fresh(folder: Path, command: Sequence[str], after: float | None = None) -> Process:
    """Run `python -m moe`, to its end or to a kill after some seconds."""
    start = time.perf_counter()
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([sys.executable, "-m", "moe", *command], cwd=folder, stdout=log, stderr=log)
        try:
            process.wait(LIMIT if after is None else after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return Process(process.returncode, 0, time.perf_counter() - start)


def files_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a run and of its answers by path, but of logs and of folders of checkpoints.

    Of a log, the trajectory without times and memory is compared.
    """
    paths = [path for part in ("run", "answers") for path in sorted((folder / part).rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: _trajectory(path) if path.name == "trajectory.parquet" else hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if path.name == "trajectory.parquet" or name.split("/")[1] not in UNCOMPARED
    }


def _trajectory(path: Path) -> str:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = [name for name in table.column_names if "seconds" not in name and "memory" not in name]
    return hashlib.sha256(json.dumps(table.select(columns).to_pydict()).encode()).hexdigest()
