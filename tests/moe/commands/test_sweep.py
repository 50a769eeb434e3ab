"""Tests for `moe sweep` and `moe ablate`: output, files, errors."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from command_line import CommandLine
from conftest import NOUNS, made_up_rows, tiny_settings, write_csv

from moe.training.trainer import _StageTrainer

FILE = "run: tiny.yaml\nuntil: expert\ndomains: [news]\nover: {lora.r: [2, 4]}\n"


@pytest.fixture(scope="module")
def workdir(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with data, a run config and a sweep file."""
    folder = tmp_path_factory.mktemp("sweep")
    for domain in NOUNS:
        write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_settings(tiny_folder, folder / "data"), sort_keys=False))
    (folder / "ranks.yaml").write_text(FILE)
    return folder


@pytest.fixture
def moe(workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Command line in `workdir`."""
    return CommandLine(workdir, monkeypatch, capsys)


def test_sweep_prints_its_trials_as_json_in_a_pipe(moe: CommandLine, workdir: Path) -> None:
    code, out, err = moe("sweep", "ranks.yaml", "--set", "lora.alpha=4")
    assert code == 0, err
    content = json.loads(out)
    assert [row["settings"]["lora.r"] for row in content["points"]] == [2, 4]
    assert content["best"] in [row["point"] for row in content["points"]]
    assert "2 of 2: lora.r 4, seed 7" in err
    names = {path.name for path in (workdir / "runs" / "sweeps" / "ranks").iterdir()}
    assert names == {"points", "rows", "results.jsonl", "sweep.csv", "sweep.json", "lora.r.png"}


def test_sweep_prints_a_table_on_a_terminal(moe: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    code, out, _ = moe("sweep", "ranks.yaml", "-o", "table", "--over", "seed=1,2")
    assert code == 0
    assert "★ r " in out
    assert "mean ± sd over seeds 1, 2" in out


def test_sweep_refuses_invalid_files_before_training(moe: CommandLine, workdir: Path) -> None:
    (workdir / "odd.yaml").write_text("run: tiny.yaml\nover: {lora.rr: [1, 2], lora.alpha: []}\nseeds: [x]\n")
    code, _, err = moe("sweep", "odd.yaml")
    assert code == 2
    assert "over.lora.alpha" in err
    assert "seeds.0" in err
    assert "lora.rr: unknown key, did you mean r?" in moe.refused("sweep", "tiny.yaml", "--over", "lora.rr=1,2")
    joined = ("--over", "lora.r,lora.alpha=[8,8],[16]")
    assert "each value is a list of 2, found [16]" in moe.refused("sweep", "tiny.yaml", *joined)
    assert "nothing to sweep" in moe.refused("sweep", "tiny.yaml")
    assert "--over key=v1,v2" in moe.refused("sweep", "tiny.yaml", "--over", "lora.r=")
    assert "no such file" in moe.refused("sweep", "nowhere.yaml")
    (workdir / "lost.yaml").write_text("run: nowhere.yaml\nover: {lora.r: [1]}\n")
    assert "nowhere.yaml" in moe.refused("sweep", "lost.yaml")
    assert not (workdir / "runs" / "sweeps" / "odd").exists()


def test_interrupted_sweep_prints_the_command_that_resumes_it(
    moe: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_step = _StageTrainer.training_step

    def interrupted_step(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, *args, **kwargs)

    words = ("sweep", "ranks.yaml", "-o", "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(_StageTrainer, "training_step", interrupted_step)
        code, _, err = moe(*words)
    assert code == 130
    assert err.rstrip().endswith("Resume with: moe sweep ranks.yaml -o stopped")
    assert moe(*words)[0] == 0


def test_ablate_lists_evaluates_and_writes_its_variants(moe: CommandLine, workdir: Path) -> None:
    assert "a mixture in" in moe.refused("ablate", "-c", "tiny.yaml", "-o", "empty")
    code, _, err = moe("run", "-c", "tiny.yaml")
    assert code == 0, err
    code, out, _ = moe("ablate", "-c", "tiny.yaml", "--list")
    kinds = {row["name"]: row["kind"] for row in json.loads(out)}
    assert kinds["without-news"] == "answered"
    assert kinds["balance-off"] == "retrained"
    code, out, _ = moe("ablate", "-c", "tiny.yaml", "--only", "routing-uniform")
    assert code == 0
    assert [row["name"] for row in json.loads(out)["rows"]] == ["full", "routing-uniform"]
    assert {path.name for path in (workdir / "runs" / "tiny" / "ablation").iterdir()} == {
        "ablation.json",
        "ablation.png",
    }
    assert "Add --retrain" in moe.refused("ablate", "-c", "tiny.yaml", "--only", "balance-off")
    assert "Did you mean full" in moe.refused("ablate", "-c", "tiny.yaml", "--only", "ful")
    assert "single expert" in moe.refused("ablate", "runs/tiny/experts/news", "-c", "tiny.yaml")
