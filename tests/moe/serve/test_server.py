"""Tests of the server process: signals, reloads under load, start-up errors and conformance to its OpenAPI document."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from command_line import CommandLine, moe
from corpora import save_language_model
from mixtures import save_random_lm_mixture
from serving import ROOT, ServeProcess, serve_process, write_mixture

from moe.inference.load import load
from moe.inference.stream import predict_rows
from moe.runs.model_ref import resolve
from moe.serve.server import bind_socket
from moe.serve.settings import ServeSettings

__all__ = ["moe"]
TEXTS = ["profit rose today", "moon bags fell again", "the bank kept sales with orders and the margin", "rates"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_mixture(tmp_path)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Working directory of the commands."""
    return tmp_path


def test_socket_sends_small_responses_without_delay() -> None:
    async def accepted_nodelay() -> int:
        accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        with bind_socket(ServeSettings(port=0)) as listener:
            server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), sock=listener)
            async with server:
                _, client = await asyncio.open_connection(*listener.getsockname())
                connection = await accepted.get()
                nodelay = connection.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                client.close()
                connection.close()
        return int(nodelay)

    assert asyncio.run(accepted_nodelay())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("gone",), "the folder of a model or a run at gone"),
        (("gone", "--host", "0.0.0.0"), "API keys, to listen on 0.0.0.0"),
        (("gone", "--port", "70000"), "port: Input should be less than"),
        (("gone", "--config", "none.yaml"), "a YAML file at none.yaml"),
        (("gone", "--host", "192.0.2.1", "--config", "keys.yaml"), "a free address to listen on, not 192.0.2.1"),
    ],
    ids=str,
)
def test_serve_reports_invalid_arguments_in_one_line(
    moe: CommandLine, words: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "keys.yaml").write_text(f"keys: {{me: {'a' * 64}}}\n")
    code, _, err = moe("serve", *words)
    assert code == 2
    assert f"Expected {expected}" in err or expected in err
    assert "Traceback" not in err


def test_serve_new_key_prints_key_and_hash(moe: CommandLine) -> None:
    code, out, _ = moe("serve", "--new-key")
    assert code == 0
    assert json.loads(out).keys() == {"key", "sha256"}


async def predict(client: httpx.AsyncClient, texts: list[str]) -> httpx.Response:
    return await client.post("/v1/predict", json={"texts": texts})


@pytest.mark.slow
def test_server_answers_many_clients_through_reloads_and_shutdown(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    rows = [{"text": text} for text in TEXTS]
    expected = {row["text"]: row for row in predict_rows(rows, load(resolve(folder)))}
    with serve_process(folder) as service:
        responses = asyncio.run(_send_load(service, folder, tmp_path / "copy"))
        assert service.process.wait(60) == 0
        lines = service.log_lines()
    answers = [row for response in responses if response.status_code == 200 for row in response.json()["answers"]]
    assert len(answers) > 500
    for row in answers:
        assert row["label"] == expected[row["text"]]["label"]
        assert row["probabilities"] == pytest.approx(expected[row["text"]]["probabilities"], abs=1e-4)
    assert {response.status_code for response in responses} <= {200, 503}
    events = [line["event"] for line in lines]
    assert events.count("reloaded") == 6
    assert events[-1] == "ended"
    assert not any(text in str(lines) for text in TEXTS)


async def _send_load(service: ServeProcess, folder: Path, copy: Path) -> list[httpx.Response]:
    """Run 32 clients while the model is reloaded by request and by signal, then stop the service."""
    responses: list[httpx.Response] = []
    finished = asyncio.Event()
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as client:

        async def send_requests(number: int) -> None:
            while not finished.is_set():
                responses.append(await predict(client, [TEXTS[(number + i) % 4] for i in range(1 + number % 4)]))
                if responses[-1].status_code != 200:
                    return

        clients = [asyncio.create_task(send_requests(number)) for number in range(32)]
        for _ in range(2):
            await asyncio.to_thread(_replace_folder, copy, folder)
            assert (await client.post("/v1/admin/reload")).status_code == 200
            service.process.send_signal(signal.SIGHUP)
            count = len(responses)
            while len(responses) < count + 64:
                await asyncio.sleep(0.05)
            assert (await client.post("/v1/admin/reload")).status_code == 200
        service.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*clients)
        finished.set()
    return responses


def _replace_folder(new: Path, folder: Path) -> None:
    temporary = folder.with_name("temporary")
    shutil.copytree(new, temporary)
    shutil.rmtree(folder)
    temporary.rename(folder)


@pytest.mark.slow
def test_shutdown_answers_queued_requests_and_rejects_new_ones(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text("drain_s: 2\nmax_wait_ms: 1000\n")
    with serve_process(folder, "--config", str(tmp_path / "slow.yaml")) as service:

        async def send_requests() -> list[int]:
            async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
                queued = [asyncio.create_task(predict(client, TEXTS)) for _ in range(8)]
                await asyncio.sleep(0.3)
                service.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
                late, ready = await predict(client, TEXTS), await client.get("/readyz")
                assert (await client.get("/healthz")).status_code == 200
                return [response.status_code for response in (*await asyncio.gather(*queued), late, ready)]

        assert asyncio.run(send_requests()) == [200] * 8 + [503] * 2
        assert service.process.wait(60) == 0


@pytest.mark.slow
def test_idle_connections_neither_exhaust_descriptors_nor_keep_health_checks_out(folder: Path) -> None:
    with serve_process(folder, descriptors=256) as service, ExitStack() as stack:
        address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        for _ in range(300):
            stack.enter_context(socket.create_connection(address))
        for _ in range(20):
            assert httpx.get(f"{service.url}/healthz", timeout=30).status_code == 200
        assert httpx.post(f"{service.url}/v1/admin/reload", timeout=60).status_code == 200
        assert [line["event"] for line in service.log_lines()] == ["serving", "reloaded", "request"]
        stack.close()
        assert service.stop() == 0


@pytest.mark.slow
def test_serve_reports_too_few_descriptors_in_one_line(folder: Path) -> None:
    command = [sys.executable, str(ROOT / "cli.py"), "serve", str(folder), "--port", "0"]
    limited = ["sh", "-c", 'ulimit -n 40 && exec "$0" "$@"', *command]
    done = subprocess.run(limited, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("moe: Expected at least ")
    assert "file descriptors" in done.stderr


@pytest.mark.slow
def test_load_benchmark_finds_no_failure(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "serve_load.py"), "--model", str(folder)]
    options = ["--seconds", "6", "--clients", "8", "--count", "50", "--json", str(tmp_path / "load.json")]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "load.json").read_text())
    assert len(figures["answered"]) == 2
    assert figures["full"] >= 1
    assert figures["disconnected"] >= 1
    assert figures["difference"] <= 2e-6
    assert figures["row"] in done.stdout


@pytest.mark.slow
def test_serve_reports_a_port_in_use_in_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        words = ["serve", str(folder), "--port", str(used.getsockname()[1])]
        done = subprocess.run([sys.executable, str(ROOT / "cli.py"), *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("moe: Expected a free address to listen on")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "language"])
def test_service_conforms_to_its_openapi_document(folder: Path, tmp_path: Path, kind: str) -> None:
    model = (
        folder
        if kind == "labels"
        else save_random_lm_mixture(tmp_path / "team", save_language_model(tmp_path / "llama", "llama"))
    )
    with serve_process(model) as service:
        words = ["run", f"{service.url}/openapi.json", "--max-examples", "20", "--seed", "1", "--no-color"]
        done = subprocess.run(
            [Path(sys.executable).with_name("schemathesis"), *words], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout[-6000:]
        assert service.stop() == 0
