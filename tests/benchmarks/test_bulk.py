"""Tests of `benchmarks/bulk.py`: a killed call ends with the undisturbed answers, and a lost row is noticed."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console


@pytest.fixture
def bulk(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("bulk")


@pytest.mark.slow
def test_killed_call_ends_with_the_undisturbed_answers_and_a_lost_row_is_noticed(
    bulk: ModuleType, tmp_path: Path
) -> None:
    measured = bulk.Bulk(str(bulk.write_tiny_model(tmp_path)), tmp_path, part_rows=500, workers=1)
    measured.write_input(2_000)
    call = bulk.measure(measured, "local", 2_000)
    assert (call.engine, call.rows) == ("local", 2_000)
    assert 0 < call.mib < 4_096
    assert "every row is there once" in bulk.disturb(measured, "local", 2_000)
    answers = bulk.read_answers(tmp_path / "local-2000")
    part = bulk.shards(tmp_path / "local-2000")[1]
    pq.write_table(pq.read_table(part).slice(1), part)
    assert bulk.read_answers(tmp_path / "local-2000").num_rows == answers.num_rows - 1
    with pytest.raises(AssertionError, match="rows are lost"):
        bulk.check_answers("local", 2_000, tmp_path / "local-2000", answers)
    other = answers.set_column(1, "label", pa.array(["other"] * answers.num_rows))
    with pytest.raises(AssertionError, match="labels differ"):
        bulk.check_answers("local", 2_000, tmp_path / "local-2000-killed", other)


def test_table_gives_the_time_of_further_rows_and_the_growth(bulk: ModuleType) -> None:
    calls = [bulk.Call("local", 1_000, 5.0, 400.0), bulk.Call("local", 11_000, 6.0, 440.0)]
    console = Console(width=140, record=True)
    console.print(bulk.build_table(calls))
    text = console.export_text()
    assert "100" in text, "1 s for 10,000 further rows"
    assert "1.20" in text
    assert "1.10" in text
