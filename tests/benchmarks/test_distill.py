"""Tests of `benchmarks/distill.py`: a tiny run of every part."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import made_up_rows

from experts.json_io import parse_json

Run = Callable[..., str]


@pytest.mark.slow
def test_teachers_label_and_students_learn_in_a_tiny_run(
    benchmark: Callable[[str], ModuleType], run: Run, data: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    distill = benchmark("distill")
    for files in distill.TEXT.values():
        for name in files:
            texts = [row["text"] for row in made_up_rows("news", count=20, seed=len(name))]
            lines = [f'{{"text": "{text}"}}' if name.endswith("jsonl") else text for text in texts]
            (data / name).write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "out"
    teacher = [f"backbone.name={tiny_folder}", "backbone.max_length=16", "stages.shared.steps=2"]
    words = [word for setting in teacher for word in ("--teacher-set", setting)]
    limits = ["--most-rows", 30, "--most-validation", 20, "--most-texts", 15]
    chosen = ["--variants", "undistilled", "one teacher", *limits]
    printed = run(distill, data, "--backbone", tiny_folder, "--out", out, "--seeds", 13, *words, *chosen)
    assert "mixture, one teacher" in printed
    assert "pooled, undistilled" in printed
    results = [parse_json(path.read_text(encoding="utf-8")) for path in out.glob("result-student-*.jsonl")]
    assert {line["model"] for line in results} == {
        f"{model}, {variant}" for model in ("mixture", "pooled") for variant in ("undistilled", "one teacher")
    }
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    run(distill, data, "--backbone", tiny_folder, "--out", out, "--seeds", 13, *words, *chosen)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}, "finished parts are kept"
