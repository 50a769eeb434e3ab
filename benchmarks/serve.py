"""A load on `moe serve`: many clients against a real process, beside scoring the same texts offline on the same cores.

Run: `python benchmarks/serve.py --model runs/demo [--seconds 120] [--clients 1 4 16 64] [--per-request 16 1]
[--texts FILE …] [--count 1000] [--dtype float32] [--threads N] [--json FILE]`. Every answer is held against offline's.
Offline is timed before and after the load; the clients take their share of the same cores. Exit code 1 where an answer
differs or a request fails.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import torch
from paired_timing import machine, texts
from rich.console import Console
from rich.table import Table

from moe.inference.loading import ModelLoader
from moe.inference.stream import predict_rows
from moe.runs.best import default_model

COMMAND = Path(__file__).parent.parent / "cli.py"
Rows = dict[str, dict[str, Any]]


@dataclass
class Level:
    """One load: so many clients, each asking again as soon as it is answered.

    Args:
        milliseconds: of each request.
        worst: the largest difference of a probability to offline's.
    """

    clients: int
    per_request: int
    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    other_labels: int = 0
    worst: float = 0.0

    @property
    def texts_per_second(self) -> float:
        """Answered."""
        return len(self.milliseconds) * self.per_request / self.seconds

    def quantile(self, share: float) -> float:
        """Milliseconds within which this share of the requests was answered."""
        return float(np.quantile(self.milliseconds, share)) if self.milliseconds else float("nan")

    def hold(self, answers: list[dict[str, Any]], offline: Rows) -> None:
        """Answers against those of the same texts offline."""
        for row in answers:
            other = offline[row["text"]]
            self.other_labels += row["label"] != other["label"]
            apart = [abs(p - other["probabilities"][label]) for label, p in row["probabilities"].items()]
            self.worst = max(self.worst, *apart)


def offline(folder: Path, args: argparse.Namespace, some: list[str]) -> tuple[Rows, float]:
    """As `scored`, in a process of its own, whose threads wait as the command's do."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(scored, folder, args.dtype, args.threads, some, args.seconds / 8).result()


def scored(folder: Path, dtype: str, threads: int, some: list[str], seconds: float) -> tuple[Rows, float]:
    """Answers by text, and texts a second over at least so many seconds."""
    torch.set_num_threads(threads)
    predictor = ModelLoader(folder, (f"backbone.dtype={dtype}",)).load()
    rows = [{"text": text} for text in some]
    found = {row["text"]: row for row in predict_rows(rows, predictor)}
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += sum(1 for _ in predict_rows(rows, predictor))
    return found, count / (time.perf_counter() - start)


async def load(url: str, level: Level, some: list[str], answers: Rows, seconds: float) -> Level:
    """Have the clients ask for so long; what they are answered is held against offline afterwards, off the clock."""
    got: list[bytes] = []
    end = time.perf_counter() + seconds

    async def client(number: int, http: aiohttp.ClientSession) -> None:
        place = number * 97
        while time.perf_counter() < end:
            asked = [some[(place + i) % len(some)] for i in range(level.per_request)]
            place, start = place + level.per_request, time.perf_counter()
            try:
                async with http.post("/v1/predict", json={"texts": asked}) as answer:
                    body = await answer.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                level.failed.append(type(error).__name__)
                continue
            if answer.status != 200:
                level.failed.append(str(answer.status))
                continue
            level.milliseconds.append((time.perf_counter() - start) * 1000)
            got.append(body)

    start = time.perf_counter()
    many = aiohttp.TCPConnector(limit=level.clients)
    async with aiohttp.ClientSession(url, connector=many, timeout=aiohttp.ClientTimeout(120)) as http:
        await asyncio.gather(*[client(number, http) for number in range(level.clients)])
    level.seconds = time.perf_counter() - start
    for one in got:
        level.hold(json.loads(one)["answers"], answers)
    return level


def serve(folder: Path, dtype: str, threads: int, log: Any) -> tuple[subprocess.Popen[bytes], str]:
    """The real command, ready to answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    words = [str(folder), "--port", port, "--threads", str(threads), "--set", f"backbone.dtype={dtype}"]
    process = subprocess.Popen([sys.executable, str(COMMAND), "serve", *words], stderr=log)
    url = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return process, url
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit(f"moe serve ended with {process.returncode}")


def shown(levels: list[Level], alone: float) -> Table:
    table = Table(
        "texts a request", "clients", "requests", "failed", "p50 ms", "p99 ms", "texts/s", "of offline",
        "other labels", "worst Δp",
    )  # fmt: skip
    for one in levels:
        figures = [one.per_request, one.clients, len(one.milliseconds), len(one.failed)]
        table.add_row(
            *map(str, figures),
            f"{one.quantile(0.5):.0f}",
            f"{one.quantile(0.99):.0f}",
            f"{one.texts_per_second:.0f}",
            f"{one.texts_per_second / alone:.2f}",
            str(one.other_labels),
            f"{one.worst:.1e}",
        )
    return table


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a mixture's or a run's folder")
    parser.add_argument("--seconds", type=float, default=120, help="of the largest load; the others take a quarter")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--per-request", type=int, nargs="*", default=[16, 1], help="texts a request")
    parser.add_argument("--texts", type=Path, nargs="*", default=(), help="files with a text column; else the sample's")
    parser.add_argument("--count", type=int, default=1000, help="different texts")
    parser.add_argument("--dtype", default="float32", help="float32 bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the model, in both")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as cli.py does
    folder = args.model if (args.model / "manifest.json").is_file() else default_model(args.model)
    some = list(dict.fromkeys(texts(args.count, args.texts)))
    answers, before = offline(folder, args, some)
    levels = []
    with Path("serve.log").open("wb") as log:
        process, url = serve(folder, args.dtype, args.threads, log)
        try:
            for per_request in args.per_request:
                for clients in args.clients:
                    seconds = args.seconds if clients == max(args.clients) else args.seconds / 4
                    level = asyncio.run(load(url, Level(clients, per_request), some, answers, seconds))
                    levels.append(level)
                    print(
                        f"{per_request} a request, {clients} clients: {level.texts_per_second:.0f} texts/s", flush=True
                    )
        finally:
            process.send_signal(signal.SIGTERM)
            ended = process.wait(60)
    _, after = offline(folder, args, some)
    alone, console = (before + after) / 2, Console(width=140)
    console.print(shown(levels, alone))
    console.print(
        f"offline {alone:.0f} texts/s ({before:.0f} before, {after:.0f} after); {args.threads} threads, {args.dtype}"
    )
    if args.json:
        figures = [asdict(one) | {"texts_per_second": one.texts_per_second} for one in levels]
        whole = {"machine": machine(), "dtype": args.dtype, "threads": args.threads, "offline": [before, after]}
        args.json.write_text(json.dumps(whole | {"levels": figures}), encoding="utf-8")
    limit = 1e-4 if args.dtype == "float32" else 2e-2
    if ended or any(one.failed or one.other_labels or one.worst > limit for one in levels):
        sys.exit(1)


if __name__ == "__main__":
    main()
