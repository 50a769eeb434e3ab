"""What `moe serve` survives: many clients, a swap to another model, disconnects, a full queue and idle connections.

Run: `python benchmarks/serve_load.py [--model runs/demo] [--seconds 60] [--clients 64] [--idle 300] [--descriptors 256]
[--dtype float32] [--threads 1] [--json FILE]`, or `--model ready`. Half of the time the model is served as it is, then
a copy with other experts. Each answer is compared with the offline prediction of the model that it names. Other clients
disconnect in mid-request, send more than the queue takes, and open connections without sending a request. It prints a
row for docs/reliability.md; the exit code is 1 if anything failed.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from paired_timing import load_texts
from serve import Level, Rows, predict_offline, start_server

from experts.atomic_io import MANIFEST, sha256_of, write_manifest
from experts.expert_io import ADAPTER
from experts.safetensors_io import load_tensors, save_tensors
from moe.drift.reference import DRIFT, TENSORS
from moe.inference.calibration import CALIBRATION
from moe.runs.model_ref import resolve

PER_REQUEST = 4
"""Texts in a request."""
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2}
"""Largest difference of a probability from offline, by dtype; the answers have six digits."""
ROUNDING = 1e-7
"""Error of the subtraction of two answers, whose difference is a multiple of 1e-6."""
EXPERT_SCALE = 0.5
"""Factor of the experts' weights in the model that is swapped in."""


@dataclass
class Outcome:
    """What happened under load.

    Args:
        answered: answers by the hash of their model.
        failed: status or error of each request that failed.
        full: requests that were refused for a full queue, with a `Retry-After`.
        disconnected: requests whose client left before the answer.
        health: seconds of each health check, on a connection of its own.
    """

    level: Level
    answered: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    full: int = 0
    disconnected: int = 0
    health: list[float] = field(default_factory=list)


class Load:
    """Clients of one service.

    Args:
        offline: predictions by the hash of the model.
        end: when the clients stop, in `time.perf_counter`'s seconds.
    """

    def __init__(self, url: str, texts: list[str], offline: dict[str, Rows], clients: int, end: float) -> None:
        self.url, self.texts, self.offline, self.end = url, texts, offline, end
        self.outcome = Outcome(Level(clients, PER_REQUEST))
        self.responses: list[bytes] = []

    def running(self) -> bool:
        """Whether the clients go on."""
        return time.perf_counter() < self.end

    def batch(self, count: int) -> dict[str, Any]:
        """Return the body of a request."""
        return {"texts": random.sample(self.texts, min(count, len(self.texts)))}

    async def post(self, http: aiohttp.ClientSession, count: int) -> bool:
        """Send a request and record its response; return whether it was answered."""
        start = time.perf_counter()
        try:
            async with http.post("/v1/predict", json=self.batch(count)) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.outcome.failed.append(type(error).__name__)
            return False
        if response.status == 200:
            self.outcome.level.milliseconds.append((time.perf_counter() - start) * 1000)
            self.responses.append(body)
            return True
        if response.status == 503 and response.headers.get("Retry-After", "").isdigit():
            self.outcome.full += 1
        else:
            self.outcome.failed.append(str(response.status))
        return False

    async def client(self, http: aiohttp.ClientSession) -> None:
        """Send the next request as soon as there is an answer; try again later if the queue is full."""
        while self.running():
            if not await self.post(http, PER_REQUEST):
                await asyncio.sleep(0.5)

    async def leaver(self, http: aiohttp.ClientSession) -> None:
        """Disconnect in mid-request, again and again."""
        while self.running():
            patience = asyncio.timeout(random.uniform(0.01, 0.2))
            try:
                async with patience, http.post("/v1/predict", json=self.batch(PER_REQUEST)) as response:
                    await response.read()
            except TimeoutError:
                self.outcome.disconnected += 1
            except aiohttp.ClientError as error:
                self.outcome.failed.append(type(error).__name__)
            await asyncio.sleep(0.05)

    async def fill_queue(self, http: aiohttp.ClientSession, texts: int, pause: float) -> None:
        """Send more texts at once than the queue takes, until a request is refused."""
        while self.running() and not self.outcome.full:
            await asyncio.sleep(pause)
            await asyncio.gather(*[self.post(http, 64) for _ in range(2 + texts // 64)])

    async def check_health(self) -> None:
        """Check the service on new connections."""
        while self.running():
            start = time.perf_counter()
            try:
                async with (
                    aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as http,
                    http.get(f"{self.url}/healthz") as response,
                ):
                    if response.status != 200:
                        self.outcome.failed.append(f"/healthz {response.status}")
            except (aiohttp.ClientError, TimeoutError) as error:
                self.outcome.failed.append(f"/healthz {type(error).__name__}")
            self.outcome.health.append(time.perf_counter() - start)
            await asyncio.sleep(0.2)

    async def idle(self, count: int) -> None:
        """Keep connections open that send nothing; open them again when the service has closed them."""
        port = int(self.url.rpartition(":")[2])
        while self.running():
            opened = []
            for _ in range(count):
                opened.append(await asyncio.open_connection("127.0.0.1", port))
                await asyncio.sleep(0.002)
            await asyncio.sleep(min(5.0, max(0.0, self.end - time.perf_counter())))
            for _, writer in opened:
                writer.close()

    def compare(self) -> Outcome:
        """Compare all answers with offline."""
        for response in self.responses:
            body = json.loads(response)
            self.outcome.answered[body["model"]] = self.outcome.answered.get(body["model"], 0) + 1
            self.outcome.level.compare(body["answers"], self.offline[body["model"]])
        return self.outcome


async def run_load(load: Load, args: argparse.Namespace, served: Path, other: Path) -> Outcome:
    """Run all clients, and swap the model after half of the time."""
    timeout = aiohttp.ClientTimeout(120)
    start = time.perf_counter()
    async with (
        aiohttp.ClientSession(load.url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http,
        aiohttp.ClientSession(load.url, connector=aiohttp.TCPConnector(limit=0, force_close=True)) as brief,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(load.idle(args.idle))
        for _ in range(args.clients):
            group.create_task(load.client(http))
        for _ in range(4):
            group.create_task(load.leaver(brief))
        group.create_task(load.check_health())
        group.create_task(load.fill_queue(brief, args.clients * PER_REQUEST * 2, args.seconds / 10))
        group.create_task(swap_model(http, load, served, other, args.seconds / 2))
    load.outcome.level.seconds = time.perf_counter() - start
    return load.compare()


async def swap_model(http: aiohttp.ClientSession, load: Load, served: Path, other: Path, seconds: float) -> None:
    """Replace the model's folder and reload it."""
    await asyncio.sleep(seconds)
    served.rename(served.with_name("before"))
    other.rename(served)
    async with http.post("/v1/admin/reload") as response:
        if response.status != 200:
            load.outcome.failed.append(f"reload {response.status}")


def copy_with_other_experts(folder: Path, target: Path) -> Path:
    """Copy a model without calibration and drift reference, and scale its experts, so that it answers differently."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(CALIBRATION, DRIFT, TENSORS))
    for path in [*target.glob(f"experts/*/{ADAPTER}"), *target.glob(ADAPTER)]:
        tensors = {name: tensor * EXPERT_SCALE for name, tensor in load_tensors(path).items()}
        path.unlink()
        save_tensors(path, tensors)
    write_manifest(target)
    return target


def find_failures(outcome: Outcome, exit_code: int, log: list[dict[str, Any]], args: argparse.Namespace) -> list[str]:
    """Return what went wrong, one line each."""
    counts = {name: outcome.failed.count(name) for name in outcome.failed}
    failures = [f"{count} × {name}" for name, count in counts.items()]
    failures += [f"exit code {exit_code}"] if exit_code else []
    failures += ["answers of one model only"] if len(outcome.answered) < 2 else []
    failures += ["the queue was never full"] if not outcome.full else []
    failures += [f"{outcome.level.other_labels} other labels"] if outcome.level.other_labels else []
    failures += [f"Δp {outcome.level.worst:.1e}"] if not outcome.level.worst < TOLERANCE[args.dtype] + ROUNDING else []
    errors = [line["event"] for line in log if line["level"] in ("error", "critical")]
    return failures + [f"in the log: {event}" for event in sorted(set(errors))]


def format_row(outcome: Outcome, failures: list[str], args: argparse.Namespace) -> str:
    """Return the row of docs/reliability.md."""
    level = outcome.level
    tried = (
        f"{args.clients} clients for {level.seconds:.0f} s, a swap to another model, {outcome.disconnected} "
        f"disconnects, {args.idle} idle connections with {args.descriptors} descriptors, a full queue"
    )
    survived = (
        f"{len(level.milliseconds):,} requests answered, {len(outcome.failed)} failed, {outcome.full} × 503 with "
        f"Retry-After, largest difference from offline {level.worst:.0e}, p50 {level.quantile(0.5) / 1000:.1f} s, "
        f"p99 {level.quantile(0.99) / 1000:.1f} s, slowest `/healthz` {max(outcome.health):.2f} s"
    )
    return f"| {tried} | {survived}{'; FAILED: ' + '; '.join(failures) if failures else ''} |"


def main() -> None:
    """Measure and print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, help="folder of a mixture, an expert or a run; default: that of moe serve"
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--idle", type=int, default=300, help="connections that send nothing")
    parser.add_argument("--descriptors", type=int, default=256, help="file descriptors of the service")
    parser.add_argument("--count", type=int, default=200, help="number of different texts")
    parser.add_argument("--dtype", default="float32", help="float32 bfloat16")
    parser.add_argument("--threads", type=int, default=1, help="of the model, in the server and offline")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command does
    texts = list(dict.fromkeys(load_texts(args.count, ())))
    folder = resolve(args.model).folder
    with tempfile.TemporaryDirectory() as work:
        outcome, failures = measure(folder, Path(work), texts, args)
    print(format_row(outcome, failures, args))
    if args.json:
        level = outcome.level
        figures = {
            "answered": list(outcome.answered.values()), "failed": outcome.failed, "full": outcome.full,
            "disconnected": outcome.disconnected, "difference": level.worst, "seconds": level.seconds,
            "p50_ms": level.quantile(0.5), "p99_ms": level.quantile(0.99), "healthz_s": float(np.max(outcome.health)),
            "row": format_row(outcome, failures, args),
        }  # fmt: skip
        args.json.write_text(json.dumps(figures), encoding="utf-8")
    if failures:
        sys.exit(1)


def measure(folder: Path, work: Path, texts: list[str], args: argparse.Namespace) -> tuple[Outcome, list[str]]:
    """Serve copies of the model and run the load; return what happened and what went wrong."""
    served, other = shutil.copytree(folder, work / "served"), copy_with_other_experts(folder, work / "other")
    offline_args = argparse.Namespace(**vars(args) | {"seconds": 0})
    models = {sha256_of(path / MANIFEST): predict_offline(path, offline_args, texts)[0] for path in (served, other)}
    config = work / "serve.yaml"
    config.write_text(f"queue_texts: {args.clients * PER_REQUEST * 2}\ntimeout_s: 120\n", encoding="utf-8")
    log_file = work / "log"
    with log_file.open("wb") as log:
        process, url = start_server(served, args.dtype, args.threads, log, config, args.descriptors)
        try:
            end = time.perf_counter() + args.seconds
            outcome = asyncio.run(run_load(Load(url, texts, models, args.clients, end), args, served, other))
        finally:
            process.send_signal(signal.SIGTERM)
            exit_code = process.wait(180)
    lines = [json.loads(line) for line in log_file.read_text(encoding="utf-8").splitlines()]
    return outcome, find_failures(outcome, exit_code, lines, args)


if __name__ == "__main__":
    main()
