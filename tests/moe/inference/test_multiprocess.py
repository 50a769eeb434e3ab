"""Claims about several processes: same predictions in the same order, faults are passed on, each core is used once."""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from conftest import Make
from mixtures import save_random_mixture

from experts.errors import Fault
from moe.inference import multiprocess
from moe.inference.load import LoadOptions, load
from moe.inference.multiprocess import CHUNKS_PER_WORKER, predict_in_processes, threads_per_worker
from moe.inference.stream import predict_rows
from moe.model.backbone import load_backbone
from moe.runs.model_ref import ModelRef, resolve

OPTIONS = LoadOptions(batch_tokens=8)


@pytest.fixture
def ref(make_work: Make, tmp_path: Path) -> ModelRef:
    work = make_work()
    return resolve(save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work))


@pytest.mark.slow
def test_two_processes_predict_as_one_in_order_and_read_a_bounded_way_ahead(
    ref: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocess, "available_cores", lambda: 2)
    rows: list[dict[str, Any]] = [{"id": i, "text": "bags fell again " * (i % 3 + 1)} for i in range(60)]
    rows[7] = {"id": 7, "text": None, "error": "missing text"}
    read = 0

    def stream() -> Iterator[dict[str, Any]]:
        nonlocal read
        for row in rows:
            read += 1
            yield row

    predicted = predict_in_processes(stream(), ref, OPTIONS, None, None, workers=2)
    first = next(predicted)
    assert read <= CHUNKS_PER_WORKER * 2 * OPTIONS.chunk_size
    for row, expected in zip([first, *predicted], predict_rows(rows, load(ref, OPTIONS)), strict=True):
        assert row.keys() == expected.keys()
        assert (row["id"], row.get("label")) == (expected["id"], expected.get("label"))
        assert row.get("probabilities") == pytest.approx(expected.get("probabilities"), abs=1e-5)


def test_fault_of_a_worker_is_raised_in_the_caller(ref: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocess, "available_cores", lambda: 2)
    with pytest.raises(Fault, match=r"one of the domains news, forum; found 'newz'\. Did you mean news\?"):
        list(predict_in_processes([{"text": "bank"}], ref, OPTIONS, "newz", None, workers=2))


def test_cores_are_divided_among_workers_and_never_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocess, "available_cores", lambda: 8)
    assert threads_per_worker(1, None) is None
    assert threads_per_worker(3, None) == 2
    assert threads_per_worker(4, 1) == 1
    for count, threads in ((9, None), (4, 3), (1, 9)):
        with pytest.raises(Fault, match="at most the 8 cores"):
            threads_per_worker(count, threads)


def test_several_workers_on_one_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocess, "has_gpu", lambda: True)
    with pytest.raises(Fault, match="--workers 1 on a GPU"):
        threads_per_worker(2, None)


@pytest.mark.slow
def test_killed_worker_ends_the_prediction_with_a_fault(ref: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocess, "available_cores", lambda: 2)
    predicted = predict_in_processes(repeat({"text": "bank"}), ref, OPTIONS, None, None, workers=2)
    assert next(predicted)["label"]
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(Fault, match="one that was killed"):
        deque(predicted, maxlen=0)
