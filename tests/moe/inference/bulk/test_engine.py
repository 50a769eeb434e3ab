"""Claims about datasets answered in parts: no row lost or doubled, whatever stops it, and another job is refused."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec.implementations.local
import psutil
import pyarrow.parquet as pq
import pytest
from conftest import Make
from mixtures import written

from experts.errors import Fault
from moe.data.readers import read_texts
from moe.inference.bulk import engine as module
from moe.inference.bulk.engine import run_bulk, bulk_summary, check_bulk_paths, predict_shards_locally
from moe.inference.bulk.ray import predict_shards_with_ray
from moe.inference.bulk.shards import PLAN, STAGED, BulkJob, stage_shards
from moe.inference.bulk.storage import RemoteFolder, list_files
from moe.inference.loading import ModelLoader
from moe.inference.stream import predict_rows
from moe.model.backbone import load_backbone

ROWS = 53


@pytest.fixture
def bulk(make_work: Make, tmp_path: Path) -> BulkJob:
    """Two files of 53 rows, some of which cannot be answered, in parts of ten."""
    work = make_work()
    (tmp_path / "in" / "deep").mkdir(parents=True)
    one, two = tmp_path / "in" / "a.csv", tmp_path / "in" / "deep" / "b.jsonl"
    lines = [f'a{i},"{"bags fell, again" if i % 9 else ""}"' for i in range(30)]
    one.write_text("\n".join(["id,text", *lines]) + "\n", encoding="utf-8")
    two.write_text("".join(json.dumps({"id": i, "text": "profit rose " * (i + 1)}) + "\n" for i in range(23)))
    opening = ModelLoader(written(tmp_path / "model", load_backbone(work.run.backbone), work))
    return BulkJob(str(tmp_path / "in"), str(tmp_path / "out"), opening, rows=10)


def rows_of(bulk: BulkJob) -> list[dict[str, Any]]:
    """All rows of all parts, in order."""
    parts = sorted(path for path in Path(bulk.out).glob("part-*.parquet"))
    return [row for path in parts for row in pq.read_table(path).to_pylist()]


def assert_whole(bulk: BulkJob) -> None:
    """Every row once, by its file and id, and each with the answer that it gets by itself."""
    found = rows_of(bulk)
    assert [(row["file"], row["id"]) for row in found] == [("a.csv", f"a{i}") for i in range(30)] + [
        ("deep/b.jsonl", str(i)) for i in range(23)
    ]
    own = [
        {"text": record.values["text"]} | ({"error": record.error} if record.error else {})
        for name in ("a.csv", "deep/b.jsonl")
        for record in read_texts(Path(bulk.source) / name)
    ]
    for row, wanted in zip(found, predict_rows(own, bulk.opening.load()), strict=True):
        assert row["error"] == wanted.get("error")
        assert row["label"] == wanted.get("label")
        assert row["probabilities"] == pytest.approx(wanted.get("probabilities"), abs=1e-5)


def test_every_row_is_answered_once_in_parts_of_one_schema(bulk: BulkJob) -> None:
    found = run_bulk(bulk, "local")
    assert (found["rows"], found["parts"], found["answered"]) == (ROWS, 6, ROWS)
    assert_whole(bulk)
    schemas = {pq.read_schema(path) for path in Path(bulk.out).glob("part-*.parquet")}
    assert len(schemas) == 1
    assert {path.name for path in Path(bulk.out).iterdir()} == {PLAN, *(bulk.name(i) for i in range(6))}
    assert "53 rows answered" in bulk_summary(found)


def test_finished_parts_are_kept_and_half_written_ones_done_again(bulk: BulkJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(one: BulkJob, todo: list[int], workers: int, threads: int | None):
        for done, count in enumerate(predict_shards_locally(one, todo, workers, threads)):
            if done == 2:
                raise KeyboardInterrupt
            yield count

    with monkeypatch.context() as patch:
        patch.setattr(module, "work_here", killed)
        with pytest.raises(KeyboardInterrupt):
            run_bulk(bulk, "local")
    out = Path(bulk.out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert len(before) == 3
    assert (out / STAGED).is_dir()
    (out / f"{bulk.name(3)}.partial").write_bytes(b"PAR1 half")
    found = run_bulk(bulk, "local")
    assert found["answered"] == ROWS - 30
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert_whole(bulk)
    assert run_bulk(bulk, "local")["answered"] == 0
    (out / bulk.name(4)).unlink()
    assert run_bulk(bulk, "local")["answered"] == 10
    assert_whole(bulk)


def test_reading_that_was_stopped_begins_anew(bulk: BulkJob, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = RemoteFolder.write, iter(range(100))

    def full(store: RemoteFolder, name: str, content: bytes) -> None:
        if next(calls) == 3:
            raise Fault("a folder that can be written", "No space left on device", "mend it")
        plain(store, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "write", full)
        with pytest.raises(Fault, match="No space left"):
            run_bulk(bulk, "local")
    run_bulk(bulk, "local")
    assert_whole(bulk)


@pytest.mark.parametrize(
    ("change", "told"), [({"rows": 9}, "rows_a_part"), ({"domain": "news"}, "domain"), ({"task": "forum"}, "task")]
)
def test_another_job_is_not_mixed_into_a_folder(bulk: BulkJob, change: dict[str, Any], told: str) -> None:
    run_bulk(bulk, "local")
    with pytest.raises(Fault, match=f"begun with; found other {told}"):
        run_bulk(replace(bulk, **change), "local")


def test_a_folder_with_other_files_is_left_alone(bulk: BulkJob) -> None:
    Path(bulk.out).mkdir()
    (Path(bulk.out) / "thesis.txt").write_text("mine")
    with pytest.raises(Fault, match=r"an empty folder at .*; found thesis.txt in it"):
        run_bulk(bulk, "local")


def test_rows_and_answers_may_lie_in_any_store(bulk: BulkJob) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(bulk.source, "/bulk-in", recursive=True)
    try:
        remote = replace(bulk, source="memory://bulk-in/*.csv", out="memory://bulk-out")
        assert run_bulk(remote, "local")["rows"] == 30
        names = sorted(RemoteFolder(remote.out).names())
        assert names == [*(bulk.name(i) for i in range(3)), PLAN]
        with memory.open(f"/bulk-out/{bulk.name(2)}") as stream:
            assert [row["id"] for row in pq.read_table(stream).to_pylist()] == [f"a{i}" for i in range(20, 30)]
    finally:
        memory.rm("/", recursive=True)


def test_the_time_is_told_before_the_start(bulk: BulkJob, capsys: pytest.CaptureFixture[str]) -> None:
    run_bulk(bulk, "local")
    assert "53 of 53 rows to answer at" in capsys.readouterr().err


def test_without_ray_one_process_answers(
    bulk: BulkJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    run_bulk(bulk, "ray")
    assert "Ray is not installed" in capsys.readouterr().err
    assert_whole(bulk)


@pytest.mark.slow
def test_ray_answers_every_row_once_though_an_actor_is_killed(bulk: BulkJob) -> None:
    stage_shards(bulk)
    killed = []
    for _ in predict_shards_with_ray(bulk, list(range(6)), 2, 1):
        if not killed:
            actors = [one for one in psutil.process_iter(["name", "cmdline"]) if "MapWorker" in " ".join(one.cmdline())]
            killed = actors[:1]
            os.kill(killed[0].pid, signal.SIGKILL)
    assert killed
    assert_whole(bulk)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("spark", "in", "out", False, False), "--engine local or ray; found 'spark'"),
        (("ray", None, "out", False, False), "found no --file"),
        (("ray", "in", None, False, False), "found no --out"),
        (("ray", "in", "out.csv", False, False), "which ends as a file"),
        (("ray", "in", "out", True, False), "found texts"),
        (("local", "in", "out", False, True), "found --spreadsheet"),
    ],
)
def test_what_parts_have_not_is_refused(words: tuple[Any, ...], told: str) -> None:
    with pytest.raises(Fault, match=told):
        check_bulk_paths(*words)


@pytest.mark.parametrize("source", ["nowhere", "*.csv", "nostore://x/y"])
def test_a_dataset_that_is_not_there_is_told(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Fault, match=r"files to answer at|a store that fsspec knows"):
        list_files(source)


def test_whatever_a_store_says_no_with_is_one_sentence(bulk: BulkJob, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoKeyError(Exception):
        """As those of a store's own package are: no OSError."""

    def refuse(*_: object, **__: object) -> None:
        raise NoKeyError("no key\nwas given")

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "makedirs", refuse)
    with pytest.raises(Fault, match=r"lets us in, at .*; found no key was given"):
        run_bulk(bulk, "local")
