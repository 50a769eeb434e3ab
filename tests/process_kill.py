"""Whole runs in processes of their own that are killed: after a time, or at a chosen file operation."""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from moe.runs.workspace import Workspace

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["killing", "moe.training.instruct", "moe.training.pretrain", "moe.training.steps"])
TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
"""Audit events of writing files; of `open` those for writing."""

Run = Callable[[Workspace], None]


def labels(work: Workspace) -> None:
    """Every step over labelled rows, going on from what is there."""
    from moe.config.stages import MERGED
    from moe.training.steps import merge_experts, train_domain, train_router

    for domain in work.run.domains:
        train_domain(work, domain, resume=True)
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    train_router(work, resume=True)


def language(work: Workspace) -> None:
    """Every step over a language model."""
    from moe.config.stages import MERGED
    from moe.training.instruct import instruct
    from moe.training.pretrain import pretrain
    from moe.training.steps import merge_experts, train_router

    pretrain(work, resume=True)
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    train_router(work, resume=True)
    instruct(work, resume=True)


def _child(run: Run, work: Workspace, die_at: int | None, counted: Any) -> None:
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 — as long as the process lives
    seen = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in TOUCHES or (event == "open" and not (isinstance(args[1], str) and set(args[1]) & set("wax+"))):
            return
        seen += 1
        counted.value = seen
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    run(work)


def killed(run: Run, work: Workspace, after: float | None = None, die_at: int | None = None) -> tuple[int, int]:
    """Run until the end, the time or the file operation.

    Returns:
        the exit code, −9 of a killed one; and how many file operations there were.
    """
    counted = CONTEXT.Value("i", 0)
    process = CONTEXT.Process(target=_child, args=(run, work, die_at, counted))
    process.start()
    process.join(after)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode, counted.value


def finished(folder: Path) -> dict[str, bytes]:
    """What a run came to: weights and metrics of every finished step, byte by byte."""
    kept = [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json") and "logs" not in p.parts]
    apart = ("data", "checkpoints")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(kept)
        if path.relative_to(folder).parts[0] not in apart
    }
