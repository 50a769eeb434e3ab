"""Tests of `benchmarks/arrivals.py`: every row runs and resumes, and the intervals are of paired differences."""

import importlib
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import LABELS, Make

from experts.domain import Domain, LabelSpace

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("arrival_tables")


def line(row: str, order: list[str], arrival: int, predictions: dict[str, list[int]], **more: Any) -> dict[str, Any]:
    """Return a saved result; every task has the true labels 0, 1, 0, 1."""
    true = {task: [[0, 1, 0, 1], predicted] for task, predicted in predictions.items()}
    cost = {"seconds": 2.0, "rows_read": 20, "old_rows": 0, "routing": None, "rank": 4, "pinned": None}
    fields = {"row": row, "seed": 13, "number": 0, "order": order, "arrival": arrival, "predictions": true}
    return fields | cost | more


def write_results(folder: Path, name: str, lines: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results-{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))


def test_tables_state_what_old_domains_lost_and_the_cost_relative_to_the_ceiling(
    tables: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order, right, wrong = ["news", "forum"], [0, 1, 0, 1], [1, 0, 1, 0]
    added = [
        line("add", order, 1, {"news": right}, pinned={"news": [right, right]}),
        line(
            "add",
            order,
            2,
            {"news": wrong, "forum": right},
            pinned={"news": [right, right], "forum": [right, right]},
            routing=0.5,
        ),
    ]
    write_results(tmp_path / "a", "add-0-13", added)
    ceiling = line("pooled", order, 2, {"news": right, "forum": right}, seconds=20.0, rows_read=400)
    write_results(tmp_path / "b", "pooled-1-13", [ceiling | {"number": 1, "order": order[::-1]}])
    runs = tables.read_runs(tmp_path)
    assert set(runs) == {"add", "add, pinned", "pooled"}
    assert set(runs["pooled"]) == {(13, 0), (13, 1)}, "a seed's ceiling of all domains does not depend on their order"
    tables.print_results(tmp_path, LabelSpace.from_domains([Domain(name, {name: ("no", "yes")}) for name in order]))
    shown = [[cell.strip() for cell in row.split("│")] for row in capsys.readouterr().out.splitlines()]
    add, pinned = (next(row for row in shown if row[1:2] == [name]) for name in ("add", "add, pinned"))
    assert add[2:5] == ["1", "4", "50.00"]
    assert (add[7], add[9]) == ("+100.00", "0 of 4")
    assert add[13:16] == ["10.0%", "5.0%", "0.500"]
    assert pinned[7:10] == ["+0.00", "+0.00 to +0.00", "4 of 4"]


def test_interval_covers_rows_and_runs(tables: ModuleType) -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 2, 400)
    noisy = np.where(random.random(400) < 0.2, 1 - true, true)
    bootstrap = tables.Bootstrap({"news": true}, {"news": 2})
    alone = bootstrap.interval([[("news", 1.0, noisy, None)]])
    assert alone.low < alone.value < alone.high
    assert 0.02 < alone.high - alone.low < 0.12
    same = bootstrap.interval([[("news", 1.0, noisy, noisy)]])
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    runs = [[("news", 1.0, predicted, None)] for predicted in (true, noisy)]
    both = bootstrap.interval(runs)
    assert both.high - both.low > alone.high - alone.low, "runs that differ widen the interval"


@pytest.mark.slow
def test_every_row_runs_and_resumes(
    tables: ModuleType, make_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"adapt": {"steps": 2, "batch_size": 8, "evals": 1}, "replay": 9}
    domains = {name: {"file": f"{name}.csv", "labels": list(LABELS)} for name in ("news", "forum", "macro")}
    work = make_work(domains=domains, shared={"r": 4}, heads={"merge": "per_expert"}, stages=stages)
    config, out = tmp_path / "config.json", tmp_path / "arrivals"
    config.write_text(json.dumps(work.run.model_dump(mode="json", exclude_unset=True)))
    arrivals = importlib.import_module("arrivals")
    command = ["arrivals", str(tmp_path / "data"), "--config", str(config), "--out", str(out), "--orders", "1"]
    variant = ["--new-expert", "expert_init.nearest=2", "--new-expert", "lora.r=6", "--ceilings", "all"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", [*command, "--seeds", "7", "--passes", "0.5", *variant])
        arrivals.main()
        results = {path.name: path.read_text() for path in out.glob("results-*.jsonl")}
        assert len(results) == 5
        lines = {name: [json.loads(each) for each in text.splitlines()] for name, text in results.items()}
        assert all([each["arrival"] for each in its] == [1, 2, 3] for its in lines.values())
        assert [each["rank"] for each in lines["results-add-1-7.jsonl"]] == [8, 14, 20]
    added = lines["results-add-1-7.jsonl"]
    assert [len(each["order"]) for each in added] == [3, 3, 3]
    for before, after in pairwise(added):
        assert all(after["pinned"][task] == pair for task, pair in before["pinned"].items())
    assert [each["old_rows"] for each in lines["results-replay-1-7.jsonl"]] == [0, 9, 18]
    assert lines["results-lora-1-7.jsonl"][0]["predictions"] == lines["results-fresh-1-7.jsonl"][0]["predictions"]
