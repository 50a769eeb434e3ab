"""Tests of the CUDA check in `benchmarks/`: it notices differences, resumes by part, and runs on a CPU at toy size."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def equality(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for folder in (BENCHMARKS, BENCHMARKS / "cuda"):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module("equality")


def compare(equality: ModuleType, measured: list[list[float]], experts: list[list[bool]]) -> dict:
    expected = equality.Answers(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[True, False], [False, True]]))
    fp32 = equality.Precision("cuda fp32", "cuda")
    return equality.compare([expected], [equality.Answers(np.array(measured), np.array(experts))], fp32)


def test_equality_fails_on_another_probability_and_on_another_expert(equality: ModuleType) -> None:
    same = [[0.9, 0.1], [0.2, 0.8]]
    assert compare(equality, same, [[True, False], [False, True]])["passed"]
    shifted = compare(equality, [[0.8, 0.2], [0.2, 0.8]], [[True, False], [False, True]])
    assert (round(shifted["difference"], 6), shifted["equal_labels"], shifted["passed"]) == (0.1, 1.0, False)
    moved = compare(equality, [[0.9, 0.1], [0.8, 0.2]], [[True, False], [True, False]])
    assert moved == {"difference": 0.0, "equal_labels": 0.5, "equal_experts": 0.5, "passed": False}


def cuda_check(*arguments: str | Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHON": sys.executable}
    command = ["bash", BENCHMARKS / "cuda.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_cuda_check_runs_every_part_at_toy_size_and_resumes_by_part(tmp_path: Path) -> None:
    first = cuda_check("--out", tmp_path, "--size", "toy", "--parts", "equality-token,gradients")
    assert first.returncode == 0, first.stdout + first.stderr
    everything = cuda_check("--out", tmp_path, "--size", "toy")
    assert everything.returncode == 0, everything.stdout + everything.stderr
    parts = json.loads((tmp_path / "cuda.json").read_text())["parts"]
    names = [
        *("equality-token", "gradients", "equality-soft", "equality-hard", "equality-team", "resume"),
        *("inference-bf16", "inference-nf4", "training-bf16", "training-nf4"),
        *("mission-encoder", "mission-decoder", "mission-9b"),
    ]
    assert [part["part"] for part in parts] == names
    stages = [[each["stage"] for each in part["comparisons"]] for part in parts if "mission" in part["part"]]
    run = ["news", "forum", "router-warmup", "moe-joint"]
    assert stages == [run, run, ["news"]]
    printed = cuda_check("--out", tmp_path, "--print-only")
    assert printed.returncode == 0
    assert json.loads((tmp_path / "cuda.json").read_text())["parts"] == parts
    assert all(name in printed.stdout for name in names)
