"""Tests of `moe infer`: what it states once per run, and where."""

import json
from pathlib import Path

import pytest

from moe.inference import multiprocess
from moe.inference.infer_command import run_infer
from moe.inference.load import LoadOptions
from moe.inference.text_io import OutputTarget, TextSource
from moe.runs.model_ref import resolve

TEXTS = ("Profit fell less than feared.", "to the moon, said my broke cousin", "up")


def test_infer_states_the_skipped_experts_once_per_run_and_apart_from_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = LoadOptions(routing="hard", runtime="onnx", batch_tokens=64)
    for path in (None, tmp_path / "answers.jsonl"):
        run_infer(TextSource(TEXTS), OutputTarget(path), resolve("ready"), options, as_json=True)
        out, err = capsys.readouterr()
        predictions = path.read_text(encoding="utf-8") if path else out
        assert [json.loads(line)["text"] for line in predictions.splitlines()] == list(TEXTS)
        (summary,) = [line for line in (out if path else err).splitlines() if line.startswith("{")]
        assert json.loads(summary) == {"routing": "hard", "experts_skipped": 0.5}
        assert "not computed" not in err


def test_infer_states_skipped_experts_only_where_some_were_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    for texts, skipped in ((TEXTS, True), (TEXTS[:1], False)):
        options = LoadOptions(routing="hard", runtime="onnx", batch_tokens=64)
        run_infer(TextSource(texts), OutputTarget(None), resolve("ready"), options)
        assert ("experts per text were not computed" in capsys.readouterr().err) == skipped


def test_workers_state_the_skipped_experts_of_all_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocess, "available_cores", lambda: 2)
    path = tmp_path / "answers.jsonl"
    options = LoadOptions(routing="hard", runtime="onnx", batch_tokens=64)
    run_infer(TextSource(TEXTS), OutputTarget(path), resolve("ready"), options, workers=2, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"routing": "hard", "experts_skipped": 0.5}
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(TEXTS)
