"""Claims about bulk inference: no row lost or duplicated, whatever stops it; a folder of another job is refused."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec.implementations.local
import psutil
import pyarrow.parquet as pq
import pytest
from conftest import Make
from mixtures import save_random_mixture

from experts.errors import Fault
from moe.data.formats.readers import read_texts
from moe.export.graph import write_graph
from moe.inference.bulk import engine
from moe.inference.bulk.engine import bulk_summary, check_bulk_paths, predict_shards_locally, run_bulk
from moe.inference.bulk.ray import predict_shards_with_ray
from moe.inference.bulk.shards import PLAN, STAGED, BulkJob, stage_shards
from moe.inference.bulk.storage import RemoteFolder, list_files
from moe.inference.load import load
from moe.inference.stream import predict_rows
from moe.model.backbone import load_backbone
from moe.runs.model_ref import resolve

ROWS = 53


@pytest.fixture
def job(make_work: Make, tmp_path: Path) -> BulkJob:
    """Two files with 53 rows, some without a text, in shards of ten."""
    work = make_work()
    (tmp_path / "in" / "deep").mkdir(parents=True)
    lines = [f'a{i},"{"bags fell, again" if i % 9 else ""}"' for i in range(30)]
    (tmp_path / "in" / "a.csv").write_text("\n".join(["id,text", *lines]) + "\n", encoding="utf-8")
    records = [json.dumps({"id": i, "text": "profit rose " * (i + 1)}) + "\n" for i in range(23)]
    (tmp_path / "in" / "deep" / "b.jsonl").write_text("".join(records))
    model = resolve(save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work))
    return BulkJob(str(tmp_path / "in"), str(tmp_path / "out"), model, rows_per_shard=10)


def read_output(job: BulkJob) -> list[dict[str, Any]]:
    """All rows of all shards, in order."""
    shards = sorted(Path(job.out).glob("part-*.parquet"))
    return [row for path in shards for row in pq.read_table(path).to_pylist()]


def assert_complete(job: BulkJob) -> None:
    """Check that the output has every row once, by file and id, with the prediction that it gets outside a shard."""
    rows = read_output(job)
    assert [(row["file"], row["id"]) for row in rows] == [("a.csv", f"a{i}") for i in range(30)] + [
        ("deep/b.jsonl", str(i)) for i in range(23)
    ]
    inputs = [
        {"text": record.values["text"]} | ({"error": record.error} if record.error else {})
        for name in ("a.csv", "deep/b.jsonl")
        for record in read_texts(Path(job.source) / name)
    ]
    for row, expected in zip(rows, predict_rows(inputs, load(job.model)), strict=True):
        assert row["error"] == expected.get("error")
        assert row["label"] == expected.get("label")
        assert row["probabilities"] == pytest.approx(expected.get("probabilities"), abs=1e-5)


def test_every_row_is_predicted_once_in_shards_of_one_schema(job: BulkJob) -> None:
    report = run_bulk(job, "local")
    assert (report.rows, report.parts, report.answered) == (ROWS, 6, ROWS)
    assert_complete(job)
    schemas = {pq.read_schema(path) for path in Path(job.out).glob("part-*.parquet")}
    assert len(schemas) == 1
    assert {path.name for path in Path(job.out).iterdir()} == {PLAN, *(job.shard_name(i) for i in range(6))}
    assert "53 rows predicted" in bulk_summary(report)


def test_job_states_the_skipped_experts_of_what_it_predicted(job: BulkJob) -> None:
    hard = replace(job, options=replace(job.options, routing="hard"))
    report = run_bulk(hard, "local")
    assert (report.routing, report.experts_skipped) == ("hard", 0.5), "one of two experts"
    assert "routing hard: 50.0% of the experts per text were not computed" in bulk_summary(report)
    again = run_bulk(hard, "local")
    assert (again.answered, again.routing, again.experts_skipped) == (0, None, None)


def test_finished_shards_are_retained_and_incomplete_ones_predicted_again(
    job: BulkJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(job: BulkJob, todo: list[int], workers: int, threads: int | None):
        for done, count in enumerate(predict_shards_locally(job, todo, workers, threads)):
            if done == 2:
                raise KeyboardInterrupt
            yield count

    with monkeypatch.context() as patch:
        patch.setattr(engine, "predict_shards_locally", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_bulk(job, "local")
    out = Path(job.out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert len(before) == 3
    assert (out / STAGED).is_dir()
    (out / f"{job.shard_name(3)}.partial").write_bytes(b"PAR1 half")
    report = run_bulk(job, "local")
    assert report.answered == ROWS - 30
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert_complete(job)
    assert run_bulk(job, "local").answered == 0
    (out / job.shard_name(4)).unlink()
    assert run_bulk(job, "local").answered == 10
    assert_complete(job)


def test_interrupted_staging_is_started_again(job: BulkJob, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = RemoteFolder.write, iter(range(100))

    def disk_full(folder: RemoteFolder, name: str, content: bytes) -> None:
        if next(calls) == 3:
            raise Fault("a folder that can be written", "No space left on device", "free some space")
        write(folder, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "write", disk_full)
        with pytest.raises(Fault, match="No space left"):
            run_bulk(job, "local")
    run_bulk(job, "local")
    assert_complete(job)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rows_per_shard": 9}, "rows_a_part"), ({"domain": "news"}, "domain"), ({"task": "forum"}, "task")],
)
def test_folder_of_another_job_is_refused(job: BulkJob, change: dict[str, Any], message: str) -> None:
    run_bulk(job, "local")
    with pytest.raises(Fault, match=f"started with; found different values of {message}"):
        run_bulk(replace(job, **change), "local")


def test_folder_with_other_files_is_refused(job: BulkJob) -> None:
    Path(job.out).mkdir()
    (Path(job.out) / "thesis.txt").write_text("mine")
    with pytest.raises(Fault, match=r"an empty folder at .*; found thesis.txt in it"):
        run_bulk(job, "local")


def test_dataset_and_shards_may_be_on_any_fsspec_storage(job: BulkJob) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(job.source, "/bulk-in", recursive=True)
    try:
        remote = replace(job, source="memory://bulk-in/*.csv", out="memory://bulk-out")
        assert run_bulk(remote, "local").rows == 30
        names = sorted(RemoteFolder(remote.out).names())
        assert names == [*(job.shard_name(i) for i in range(3)), PLAN]
        with memory.open(f"/bulk-out/{job.shard_name(2)}") as stream:
            assert [row["id"] for row in pq.read_table(stream).to_pylist()] == [f"a{i}" for i in range(20, 30)]
    finally:
        memory.rm("/", recursive=True)


def test_duration_is_estimated_before_the_start(job: BulkJob, capsys: pytest.CaptureFixture[str]) -> None:
    run_bulk(job, "local")
    assert "53 of 53 rows to predict at" in capsys.readouterr().err


def test_missing_ray_falls_back_to_one_process(
    job: BulkJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("moe.inference.bulk.ray.find_spec", lambda name: None)
    run_bulk(job, "ray")
    assert "Ray is not installed" in capsys.readouterr().err
    assert_complete(job)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning:ray")  # Ray sets its own old options
def test_ray_predicts_every_row_once_even_if_an_actor_is_killed(job: BulkJob) -> None:
    stage_shards(job)
    killed = []
    for _ in predict_shards_with_ray(job, list(range(6)), 2, 1):
        if not killed:
            processes = psutil.process_iter(["name", "cmdline"])
            killed = [process for process in processes if "MapWorker" in " ".join(process.cmdline())][:1]
            os.kill(killed[0].pid, signal.SIGKILL)
    assert killed
    assert_complete(job)


@pytest.mark.slow
def test_killed_process_loses_and_repeats_none_of_20_000_rows(make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    model = save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work)
    write_graph(model)  # the child then needs no PyTorch
    texts = [f"{'profit rose' if i % 3 else 'bags fell'} {i % 7}" if i % 1_000 else "" for i in range(20_000)]
    lines = [f"{i},{text}" for i, text in enumerate(texts)]
    (tmp_path / "texts.csv").write_text("\n".join(["id,text", *lines]) + "\n", encoding="utf-8")
    job = BulkJob(str(tmp_path / "texts.csv"), str(tmp_path / "out"), resolve(model), rows_per_shard=2_500)
    child = multiprocessing.get_context("spawn").Process(target=run_bulk, args=(job, "local"))
    child.start()
    while child.is_alive() and len(list(Path(job.out).glob("part-*.parquet"))) < 3:
        time.sleep(0.005)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    finished = len(list(Path(job.out).glob("part-*.parquet")))
    assert 3 <= finished < 8
    report = run_bulk(job, "local")
    assert (report.rows, report.parts, report.answered) == (20_000, 8, 20_000 - finished * 2_500)
    rows = read_output(job)
    assert [(row["id"], row["text"] or "") for row in rows] == [(str(i), text) for i, text in enumerate(texts)]
    assert all((row["label"] is None) == (row["text"] is None) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spark", "in", "out", False, False), "--engine local or ray; found 'spark'"),
        (("ray", None, "out", False, False), "found no --file"),
        (("ray", "in", None, False, False), "found no --out-dir"),
        (("ray", "in", "out.csv", False, False), "which is a file name"),
        (("ray", "in", "out", True, False), "found texts"),
        (("local", "in", "out", False, True), "found --spreadsheet"),
    ],
)
def test_options_that_bulk_inference_does_not_have_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(Fault, match=message):
        check_bulk_paths(*arguments)


@pytest.mark.parametrize("source", ["nowhere", "*.csv", "nostore://x/y"])
def test_missing_dataset_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Fault, match=r"files to predict at|a storage that fsspec knows"):
        list_files(source)


def test_any_error_of_a_storage_becomes_a_fault(job: BulkJob, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoKeyError(Exception):
        """An exception of a storage library, which is no OSError."""

    def refuse(*_: object, **__: object) -> None:
        raise NoKeyError("no key\nwas given")

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "makedirs", refuse)
    with pytest.raises(Fault, match=r"can be accessed, at .*; found no key was given"):
        run_bulk(job, "local")
