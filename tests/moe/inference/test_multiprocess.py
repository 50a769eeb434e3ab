"""Claims about several processes: the same answers in the same order, faults told, cores used once."""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Make
from mixtures import written

from experts.errors import Fault
from moe.inference import multiprocess as workers
from moe.inference.loading import ModelLoader
from moe.inference.multiprocess import CHUNKS_PER_WORKER, predict_in_processes, threads_per_worker
from moe.inference.stream import predict_rows
from moe.model.backbone import load_backbone


@pytest.fixture
def opening(make_work: Make, tmp_path: Path) -> ModelLoader:
    work = make_work()
    return ModelLoader(written(tmp_path / "model", load_backbone(work.run.backbone), work), batch_tokens=8)


@pytest.mark.slow
def test_two_processes_answer_as_one_does_in_order_and_read_a_bounded_way_ahead(
    opening: ModelLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    rows: list[dict[str, Any]] = [{"id": i, "text": "bags fell again " * (i % 3 + 1)} for i in range(60)]
    rows[7] = {"id": 7, "text": None, "error": "missing text"}
    taken = 0

    def stream() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for row in rows:
            taken += 1
            yield row

    answers = predict_in_processes(stream(), opening, None, None, workers=2)
    first = next(answers)
    assert taken <= CHUNKS_PER_WORKER * 2 * opening.chunk_size
    for found, wanted in zip([first, *answers], predict_rows(rows, opening.load()), strict=True):
        assert found.keys() == wanted.keys()
        assert (found["id"], found.get("label")) == (wanted["id"], wanted.get("label"))
        assert found.get("probabilities") == pytest.approx(wanted.get("probabilities"), abs=1e-5)


def test_what_a_process_finds_wrong_is_told_as_if_it_were_here(
    opening: ModelLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    with pytest.raises(Fault, match=r"one of the domains news, forum; found 'newz'\. Did you mean news\?"):
        list(predict_in_processes([{"text": "bank"}], opening, "newz", None, workers=2))


def test_the_cores_are_shared_out_and_never_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 8)
    assert threads_per_worker(1, None) is None
    assert threads_per_worker(3, None) == 2
    assert threads_per_worker(4, 1) == 1
    for count, threads in ((9, None), (4, 3), (1, 9)):
        with pytest.raises(Fault, match="at most the 8 cores"):
            threads_per_worker(count, threads)


def test_several_processes_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(Fault, match="--workers 1 on a GPU"):
        threads_per_worker(2, None)


@pytest.mark.slow
def test_a_killed_process_ends_the_work_with_a_sentence(opening: ModelLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    answers = predict_in_processes(repeat({"text": "bank"}), opening, None, None, workers=2)
    assert next(answers)["label"]
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(Fault, match="one that was killed"):
        deque(answers, maxlen=0)
