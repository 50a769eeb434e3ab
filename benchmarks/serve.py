"""Load test of `moe serve`: many clients against a real process, compared with offline inference on the same cores.

Run: `python benchmarks/serve.py --model runs/demo [--seconds 120] [--clients 1 4 16 64] [--per-request 16 1]
[--texts FILE …] [--count 1000] [--dtype float32] [--threads N] [--json FILE]`. Every prediction is compared with the
offline one. Offline inference is timed before and after the load; the clients run on the same cores as the server. The
exit code is 1 if a prediction differs or a request fails.
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
from paired_timing import load_texts, machine_info
from rich.console import Console
from rich.table import Table

from moe.inference.load import LoadOptions, load
from moe.inference.stream import predict_rows
from moe.runs.model_ref import resolve

COMMAND = Path(__file__).parent.parent / "cli.py"
Rows = dict[str, dict[str, Any]]
"""Predictions by text."""


@dataclass
class Level:
    """A level of load: a number of clients, each of which sends its next request as soon as it gets a response.

    Args:
        per_request: texts per request.
        milliseconds: of each request.
        failed: status code or error of each failed request.
        other_labels: number of predictions with another label than offline.
        worst: largest difference of a probability from offline.
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
        """Texts classified per second."""
        return len(self.milliseconds) * self.per_request / self.seconds

    def quantile(self, share: float) -> float:
        """Return the quantile of the latency in milliseconds."""
        return float(np.quantile(self.milliseconds, share)) if self.milliseconds else float("nan")

    def compare(self, answers: list[dict[str, Any]], offline: Rows) -> None:
        """Compare predictions with those of the same texts offline."""
        for row in answers:
            other = offline[row["text"]]
            self.other_labels += row["label"] != other["label"]
            differences = [abs(p - other["probabilities"][label]) for label, p in row["probabilities"].items()]
            self.worst = max(self.worst, *differences)


def predict_offline(folder: Path, args: argparse.Namespace, texts: list[str]) -> tuple[Rows, float]:
    """Run `time_offline` in a separate process, whose threads wait as those of the command do."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(time_offline, folder, args.dtype, args.threads, texts, args.seconds / 8).result()


def time_offline(folder: Path, dtype: str, threads: int, texts: list[str], seconds: float) -> tuple[Rows, float]:
    """Return the predictions, and the texts per second over at least `seconds`."""
    torch.set_num_threads(threads)
    predictor = load(resolve(folder), LoadOptions(sets=(f"backbone.dtype={dtype}",)))
    rows = [{"text": text} for text in texts]
    predictions: Rows = {str(row["text"]): row for row in predict_rows(rows, predictor)}
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += sum(1 for _ in predict_rows(rows, predictor))
    return predictions, count / (time.perf_counter() - start)


async def run_load(url: str, level: Level, texts: list[str], offline: Rows, seconds: float) -> Level:
    """Let the clients send requests for `seconds`; the responses are compared with offline afterwards, untimed."""
    responses: list[bytes] = []
    end = time.perf_counter() + seconds

    async def client(number: int, http: aiohttp.ClientSession) -> None:
        position = number * 97
        while time.perf_counter() < end:
            batch = [texts[(position + i) % len(texts)] for i in range(level.per_request)]
            position, start = position + level.per_request, time.perf_counter()
            try:
                async with http.post("/v1/predict", json={"texts": batch}) as response:
                    body = await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                level.failed.append(type(error).__name__)
                continue
            if response.status != 200:
                level.failed.append(str(response.status))
                continue
            level.milliseconds.append((time.perf_counter() - start) * 1000)
            responses.append(body)

    start = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=level.clients)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(120)) as http:
        await asyncio.gather(*[client(number, http) for number in range(level.clients)])
    level.seconds = time.perf_counter() - start
    for response in responses:
        level.compare(json.loads(response)["answers"], offline)
    return level


def start_server(
    folder: Path, dtype: str, threads: int, log: Any, config: Path | None = None, descriptors: int | None = None
) -> tuple[subprocess.Popen[bytes], str]:
    """Start the command, wait until it is ready, and return it with its URL.

    Args:
        config: settings of the service.
        descriptors: file descriptors that it may have.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    options = [str(folder), "--port", port, "--threads", str(threads), "--set", f"backbone.dtype={dtype}"]
    options += ["--config", str(config)] if config else []
    command = [sys.executable, str(COMMAND), "serve", *options]
    if descriptors is not None:
        command = ["sh", "-c", f'ulimit -n {descriptors} && exec "$0" "$@"', *command]
    process = subprocess.Popen(command, stderr=log)
    url = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return process, url
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit(f"moe serve ended with exit code {process.returncode}")


def build_table(levels: list[Level], offline: float) -> Table:
    """Show the levels of load, with throughput relative to offline's texts per second."""
    table = Table(
        "texts per request", "clients", "requests", "failed", "p50 ms", "p99 ms", "texts/s", "of offline",
        "other labels", "largest Δp",
    )  # fmt: skip
    for level in levels:
        counts = [level.per_request, level.clients, len(level.milliseconds), len(level.failed)]
        table.add_row(
            *map(str, counts),
            f"{level.quantile(0.5):.0f}",
            f"{level.quantile(0.99):.0f}",
            f"{level.texts_per_second:.0f}",
            f"{level.texts_per_second / offline:.2f}",
            str(level.other_labels),
            f"{level.worst:.1e}",
        )
    return table


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a mixture or of a run")
    parser.add_argument("--seconds", type=float, default=120, help="of the highest load; the others take a quarter")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--per-request", type=int, nargs="*", default=[16, 1], help="texts per request")
    parser.add_argument(
        "--texts", type=Path, nargs="*", default=(), help="files with a text column; default: the synthetic sample"
    )
    parser.add_argument("--count", type=int, default=1000, help="number of different texts")
    parser.add_argument("--dtype", default="float32", help="float32 bfloat16")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of the model, in the server and offline"
    )
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command does
    folder = resolve(args.model).folder
    texts = list(dict.fromkeys(load_texts(args.count, args.texts)))
    predictions, before = predict_offline(folder, args, texts)
    levels = []
    with Path("serve.log").open("wb") as log:
        process, url = start_server(folder, args.dtype, args.threads, log)
        try:
            for per_request in args.per_request:
                for clients in args.clients:
                    seconds = args.seconds if clients == max(args.clients) else args.seconds / 4
                    level = asyncio.run(run_load(url, Level(clients, per_request), texts, predictions, seconds))
                    levels.append(level)
                    print(
                        f"{per_request} texts per request, {clients} clients: {level.texts_per_second:.0f} texts/s",
                        flush=True,
                    )
        finally:
            process.send_signal(signal.SIGTERM)
            exit_code = process.wait(60)
    _, after = predict_offline(folder, args, texts)
    offline, console = (before + after) / 2, Console(width=140)
    console.print(build_table(levels, offline))
    console.print(
        f"offline {offline:.0f} texts/s ({before:.0f} before, {after:.0f} after); {args.threads} threads, {args.dtype}"
    )
    if args.json:
        figures = [asdict(level) | {"texts_per_second": level.texts_per_second} for level in levels]
        report = {"machine": machine_info(), "dtype": args.dtype, "threads": args.threads, "offline": [before, after]}
        args.json.write_text(json.dumps(report | {"levels": figures}), encoding="utf-8")
    limit = 1e-4 if args.dtype == "float32" else 2e-2
    if exit_code or any(level.failed or level.other_labels or level.worst > limit for level in levels):
        sys.exit(1)


if __name__ == "__main__":
    main()
