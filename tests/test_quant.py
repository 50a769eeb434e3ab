"""The walk of docs/quant.md, from dated posts to a signal, works as shown, in order, in an empty folder."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "quant.md").read_text(encoding="utf-8")
ROWS = 1200
SMALL = {f"--rows {ROWS}": "--rows 240", "sweep_walk_forward.yaml": "sweep_walk_forward.yaml --set sample.rows=240"}
"""What a small part of the walk changes in its commands."""
FEW_STEPS = " --set stages.expert.epochs=0.1 --set stages.expert.steps=2 --set stages.expert.evals=1"


def walk_commands() -> list[str]:
    """Commands of the walk, without the one that installs."""
    block = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    return [line for line in block[1].splitlines() if line.startswith("moe ")]


def test_walk_goes_from_data_over_training_and_answers_to_the_signal() -> None:
    assert [shlex.split(line)[1] for line in walk_commands()] == ["sample", "sweep", "infer", "signal"]


@pytest.mark.slow
def test_walk_works_in_order_on_a_small_part(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in walk_commands():
        typed = line
        for full, small in SMALL.items():
            typed = typed.replace(full, small)
        typed += FEW_STEPS if line.startswith("moe sweep") else ""
        environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
        process = subprocess.run(typed, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, f"{typed}\n{process.stdout[-2000:]}\n{process.stderr[-2000:]}"
    sweep = json.loads((tmp_path / "runs" / "sweeps" / "sweep_walk_forward" / "sweep.json").read_text(encoding="utf-8"))
    assert [fold["measures"]["fold"] for fold in sweep["folds"]] == [0, 1, 2, 3]
    answers = pd.read_parquet(tmp_path / "answers.parquet")
    assert len(answers) == 240
    trained = int((answers["published_at"] < "2024").sum())
    report = json.loads((tmp_path / "signal" / "signal.json").read_text(encoding="utf-8"))
    assert report["coverage"]["rejected"] == {"a time before since": trained}
    assert report["coverage"]["unmapped"] == {}
    assert [source["source"] for source in report["sources"]] == ["answers", "lexicon"]
    assert all(source["ic"][0]["null"] for source in report["sources"])
