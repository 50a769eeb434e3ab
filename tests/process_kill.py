"""Runs in child processes that are killed after a given time, or at a given file operation."""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from moe.runs.workspace import Workspace

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["process_kill", "moe.training.language.instruct", "moe.training.language.pretrain", "moe.training.steps"]
)
WRITE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
"""Audit events of operations that change files; `open` counts only if it is for writing."""

Run = Callable[[Workspace], None]


def train_classifier(work: Workspace) -> None:
    """Run every step over labelled rows, resuming from what exists."""
    from moe.config.stages import MERGED
    from moe.training.expert_steps import train_domain
    from moe.training.steps import merge_experts, train_router

    for domain in work.run.domains:
        train_domain(work, domain, resume=True)
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    train_router(work, resume=True)


def train_language_model(work: Workspace) -> None:
    """Run every step over a language model, resuming from what exists."""
    from moe.config.stages import MERGED
    from moe.training.language.instruct import instruct
    from moe.training.language.pretrain import pretrain
    from moe.training.steps import merge_experts, train_router

    pretrain(work, resume=True)
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    train_router(work, resume=True)
    instruct(work, resume=True)


def _child(run: Run, work: Workspace, die_at: int | None, counter: Any) -> None:
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 — open as long as the process runs
    operations = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal operations
        for_writing = event != "open" or (isinstance(args[1], str) and set(args[1]) & set("wax+"))
        if event not in WRITE_EVENTS or not for_writing:
            return
        operations += 1
        counter.value = operations
        if operations == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    run(work)


def run_and_kill(run: Run, work: Workspace, after: float | None = None, die_at: int | None = None) -> tuple[int, int]:
    """Run in a child process to the end, for `after` seconds, or to the file operation with number `die_at`.

    Returns:
        the exit code, −9 if the process was killed, and the number of file operations.
    """
    counter = CONTEXT.Value("i", 0)
    process = CONTEXT.Process(target=_child, args=(run, work, die_at, counter))
    process.start()
    process.join(after)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode, counter.value


def finished_files(folder: Path) -> dict[str, bytes]:
    """Bytes of the weights and JSON files of every finished step, by path."""
    paths = [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json") and "logs" not in p.parts]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(paths)
        if path.relative_to(folder).parts[0] not in ("data", "checkpoints")
    }
