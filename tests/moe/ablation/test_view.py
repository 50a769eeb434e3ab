"""Tests for the table and the chart of an ablation."""

from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from moe.ablation.view import ablation_view, draw_chart


def row(name: str, kind: str, accuracy: float, low: float, high: float) -> dict[str, Any]:
    """Row of an ablation with a difference."""
    metrics = {"accuracy": 0.8 + accuracy, "macro_f1": 0.79 + accuracy}
    content = {"name": name, "kind": kind, "says": f"{name} shown", "tasks": {"news": metrics}, "mean": metrics}
    intervals = {"accuracy_interval": [low, high], "macro_f1_interval": [low - 0.01, high + 0.01]}
    return content | {"difference": {"accuracy": accuracy, "macro_f1": accuracy} | intervals}


def content() -> dict[str, Any]:
    """Ablation of the full mixture and two variants."""
    full = {key: value for key, value in row("full", "answered", 0.0, 0.0, 0.0).items() if key != "difference"}
    rows = [full, row("without-news", "answered", -0.1, -0.15, -0.05), row("gate-hard", "retrained", 0.0, -0.02, 0.02)]
    return {"model": "run/moe-joint", "texts": 60, "rows": rows, "chart": "run/ablation/ablation.png"}


def test_table_shows_differences_in_points_with_intervals() -> None:
    console = Console(width=120, record=True, file=StringIO())
    console.print(ablation_view(content()))
    text = console.export_text()
    assert "-10.0 [-15.0, -5.0]" in text
    assert "+0.0 [-2.0, +2.0]" in text
    assert "-10.0 [-16.0, -4.0]" in text
    assert "0.800 0.790" in text
    assert "without-news: without-news shown" in text


def test_chart_is_a_png_even_for_the_full_mixture_only(tmp_path: Path) -> None:
    assert draw_chart(content(), tmp_path / "deep" / "a.png").read_bytes().startswith(b"\x89PNG")
    full_only = content() | {"rows": content()["rows"][:1]}
    assert draw_chart(full_only, tmp_path / "b.png").is_file()
