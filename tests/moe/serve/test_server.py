"""Claims about the process: it drains when told to end, swaps under load, refuses in one sentence; as typed.

And about what OpenAPI says: schemathesis holds the service against it.
"""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from command_line import CommandLine, moe
from conftest import made_up_rows, save_backbone, tiny_run, write_csv
from corpora import save_model
from mixtures import written, written_team
from serving import ROOT, Running, running

from moe.inference.loading import ModelLoader
from moe.inference.stream import predict_rows
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace
from moe.serve.server import _bind_socket
from moe.serve.settings import ServeSettings

__all__ = ["moe"]
TEXTS = ["profit rose today", "moon bags fell again", "the bank kept sales with orders and the margin", "rates"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("news", "forum"):
        write_csv(tmp_path / "data" / f"{name}.csv", made_up_rows(name))
    run = tiny_run(save_backbone(tmp_path / "bert"), tmp_path / "data")
    return written(tmp_path / "mixture", load_backbone(run.backbone), Workspace(run, tmp_path / "run"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where commands are typed."""
    return tmp_path


def test_small_answers_are_sent_at_once() -> None:
    async def whole() -> int:
        accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        with _bind_socket(ServeSettings(port=0)) as listener:
            server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), sock=listener)
            async with server:
                _, asking = await asyncio.open_connection(*listener.getsockname())
                answering = await accepted.get()
                found = answering.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                asking.close()
                answering.close()
        return int(found)

    assert asyncio.run(whole())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), "a model's folder"),
        (("gone",), "a run's folder at gone"),
        (("gone", "--host", "0.0.0.0"), "keys, to listen at 0.0.0.0"),
        (("gone", "--port", "70000"), "port: Input should be less than"),
        (("gone", "--config", "none.yaml"), "a YAML file at none.yaml"),
        (("gone", "--host", "192.0.2.1", "--config", "keys.yaml"), "an address to listen at, 192.0.2.1"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_one_sentence(
    moe: CommandLine, words: tuple[str, ...], found: str, tmp_path: Path
) -> None:
    (tmp_path / "keys.yaml").write_text(f"keys: {{me: {'a' * 64}}}\n")
    code, _, err = moe("serve", *words)
    assert code == 2
    assert f"Expected {found}" in err or found in err
    assert "Traceback" not in err


def test_a_new_key_is_printed_with_its_hash(moe: CommandLine) -> None:
    code, out, _ = moe("serve", "--new-key")
    assert code == 0
    assert json.loads(out).keys() == {"key", "sha256"}


async def ask(client: httpx.AsyncClient, texts: list[str]) -> httpx.Response:
    return await client.post("/v1/predict", json={"texts": texts})


@pytest.mark.slow
def test_many_clients_are_answered_through_swaps_and_the_end_drops_none(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "as it was")
    expected = {row["text"]: row for row in predict_rows([{"text": one} for one in TEXTS], ModelLoader(folder).load())}
    with running(folder) as service:
        found = asyncio.run(_loaded(service, folder, tmp_path / "as it was"))
        assert service.process.wait(60) == 0
        lines = service.lines()
    answers = [row for one in found if one.status_code == 200 for row in one.json()["answers"]]
    assert len(answers) > 500
    for row in answers:
        assert row["label"] == expected[row["text"]]["label"]
        assert row["probabilities"] == pytest.approx(expected[row["text"]]["probabilities"], abs=1e-4)
    assert {one.status_code for one in found} <= {200, 503}
    events = [line["event"] for line in lines]
    assert events.count("reloaded") == 6
    assert events[-1] == "ended"
    assert not any(text in str(lines) for text in TEXTS)


async def _loaded(service: Running, folder: Path, other: Path) -> list[httpx.Response]:
    """Thirty-two clients, while the model is put in its place anew by both ways, and at the end told to end."""
    found: list[httpx.Response] = []
    over = asyncio.Event()
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as client:

        async def one(number: int) -> None:
            while not over.is_set():
                found.append(await ask(client, [TEXTS[(number + i) % 4] for i in range(1 + number % 4)]))
                if found[-1].status_code != 200:
                    return

        clients = [asyncio.create_task(one(number)) for number in range(32)]
        for _ in range(2):
            await asyncio.to_thread(_put_there, other, folder)
            assert (await client.post("/v1/admin/reload")).status_code == 200
            service.process.send_signal(signal.SIGHUP)
            count = len(found)
            while len(found) < count + 64:
                await asyncio.sleep(0.05)
            assert (await client.post("/v1/admin/reload")).status_code == 200
        service.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*clients)
        over.set()
    return found


def _put_there(new: Path, folder: Path) -> None:
    aside = folder.with_name("aside")
    shutil.copytree(new, aside)
    shutil.rmtree(folder)
    aside.rename(folder)


@pytest.mark.slow
def test_what_waits_when_told_to_end_is_answered_and_new_work_is_not_taken(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text("drain_s: 2\nmax_wait_ms: 1000\n")
    with running(folder, "--config", str(tmp_path / "slow.yaml")) as service:

        async def work() -> list[int]:
            async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
                waiting = [asyncio.create_task(ask(client, TEXTS)) for _ in range(8)]
                await asyncio.sleep(0.3)
                service.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
                late, ready = await ask(client, TEXTS), await client.get("/readyz")
                assert (await client.get("/healthz")).status_code == 200
                return [one.status_code for one in (*await asyncio.gather(*waiting), late, ready)]

        assert asyncio.run(work()) == [200] * 8 + [503] * 2
        assert service.process.wait(60) == 0


@pytest.mark.slow
def test_an_address_that_is_taken_is_one_sentence(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["serve", str(folder), "--port", str(taken.getsockname()[1])]
        done = subprocess.run([sys.executable, str(ROOT / "cli.py"), *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("moe: Expected an address to listen at")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "language"])
def test_schemathesis_finds_nothing(folder: Path, tmp_path: Path, kind: str) -> None:
    model = folder if kind == "labels" else written_team(tmp_path / "team", save_model(tmp_path / "llama", "llama"))
    with running(model) as service:
        words = ["run", f"{service.url}/openapi.json", "--max-examples", "20", "--seed", "1", "--no-color"]
        done = subprocess.run(
            [Path(sys.executable).with_name("schemathesis"), *words], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout[-6000:]
        assert service.end() == 0
