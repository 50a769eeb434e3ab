"""Tests for the table and the chart of an ablation."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from moe.ablation.view import ablation_view, draw_chart
from moe.results.ablation import AblationReport, VariantDifference, VariantMetrics, VariantRow


def row(name: str, kind: str, accuracy: float, low: float, high: float) -> VariantRow:
    """Row of an ablation with a difference."""
    metrics = VariantMetrics(accuracy=0.8 + accuracy, macro_f1=0.79 + accuracy)
    difference = VariantDifference(
        accuracy=accuracy,
        macro_f1=accuracy,
        accuracy_interval=(low, high),
        macro_f1_interval=(low - 0.01, high + 0.01),
    )
    tasks = {"news": metrics}
    return VariantRow(
        name=name, kind=kind, description=f"{name} shown", tasks=tasks, mean=metrics, difference=difference
    )


def report() -> AblationReport:
    """Ablation of the full mixture and two variants."""
    full = row("full", "answered", 0.0, 0.0, 0.0).model_copy(update={"difference": None})
    rows = [full, row("without-news", "answered", -0.1, -0.15, -0.05), row("gate-hard", "retrained", 0.0, -0.02, 0.02)]
    return AblationReport(model="run/moe-joint", texts=60, rows=rows, chart="run/ablation/ablation.png")


def test_table_shows_differences_in_points_with_intervals() -> None:
    console = Console(width=120, record=True, file=StringIO())
    console.print(ablation_view(report()))
    text = console.export_text()
    assert "-10.0 [-15.0, -5.0]" in text
    assert "+0.0 [-2.0, +2.0]" in text
    assert "-10.0 [-16.0, -4.0]" in text
    assert "0.800 0.790" in text
    assert "without-news: without-news shown" in text


def test_chart_is_a_png_even_for_the_full_mixture_only(tmp_path: Path) -> None:
    assert draw_chart(report().rows, tmp_path / "deep" / "a.png").read_bytes().startswith(b"\x89PNG")
    assert draw_chart(report().rows[:1], tmp_path / "b.png").is_file()
