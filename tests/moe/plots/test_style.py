"""Tests of `moe.plots.style`, and of charts with names and numbers of any kind: all of them are drawn."""

import math
from pathlib import Path
from typing import Any

import pytest
from training_logs import evaluation_line, step_line, write_log

from experts.errors import Fault
from moe.data.task_reports import SplitSize, TaskReport
from moe.plots import training as charts
from moe.plots.results import confusion_matrix_chart, heatmap_chart, label_distribution_chart
from moe.plots.style import COLUMNS, label_panel, new_figure, panel_grid, save_figure, square_panels, to_png
from moe.results.metrics import Confusion
from moe.runs.training_log import Trajectory, read_trajectory

PNG = b"\x89PNG"
NAMES = ["$\\alpha$", "$\\nothing$", "50 $ to 60 $", "a_b^c {d}", "%s\\n", "<b>&amp;", " "]
"""Label names that a formula or a template would read otherwise."""


def texts_of(figure: Any) -> set[str]:
    """Texts of a drawn figure."""
    return {text.get_text() for panel in figure.axes for text in panel.texts} | {
        label.get_text() for panel in figure.axes for label in (*panel.get_xticklabels(), *panel.get_yticklabels())
    }


@pytest.mark.parametrize("name", NAMES)
def test_names_are_drawn_as_they_are_and_not_as_formulas(name: str) -> None:
    figure, ((panel,),) = panel_grid(name, 1, 1, 2.0)
    panel.plot([1, 2], [1, 2], label=name)
    panel.set_xticks([1, 2], [name, "b"])
    panel.text(1, 1, name)
    label_panel(panel, name, name, name)
    assert to_png(figure, shared_legend=True).startswith(PNG)
    assert name in texts_of(figure)


def test_charts_of_results_have_labels_and_tasks_of_any_name() -> None:
    names = NAMES[:4]
    rows = [[i + j for j in range(len(names) + 1)] for i in range(len(names))]
    assert confusion_matrix_chart({name: Confusion(labels=names, rows=rows) for name in NAMES[:2]})
    assert label_distribution_chart(
        [TaskReport(task=name, splits={"train": SplitSize(5 * len(names), dict.fromkeys(names, 5))}) for name in names]
    )
    assert heatmap_chart(NAMES[0], {name: dict.fromkeys(names, 0.25) for name in names}, NAMES[1], NAMES[2])


def test_charts_of_results_have_rows_without_a_count() -> None:
    assert confusion_matrix_chart({"t": Confusion(labels=["a", "b"], rows=[[0, 0, 0], [0, 0, 0]])})
    empty = TaskReport(task="t", splits={"train": SplitSize(0, {"a": 0, "b": 0})})
    assert label_distribution_chart([empty]) is None
    assert heatmap_chart("x", {"a": {"b": math.nan, "c": 0.0}}, "texts of", "expert")


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (7, 3)])
def test_square_panels_fill_rows_of_equal_width(count: int, rows: int) -> None:
    figure, panels = square_panels(count, "a title that is much longer than the figure is wide " * 3)
    assert len(panels) == len(figure.axes) == count
    assert figure.get_size_inches()[0] <= 3.4 * COLUMNS + 0.5
    specs = [spec for panel in panels if (spec := panel.get_subplotspec()) is not None]
    assert [spec.get_gridspec().nrows for spec in specs] == [rows] * count


def test_figure_in_a_folder_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Fault, match="a folder that can be written"):
        save_figure(new_figure(1, 1), tmp_path / "file" / "x.png")
    save_figure(new_figure(1, 1), tmp_path / "new" / "x.png")
    assert (tmp_path / "new" / "x.png").read_bytes().startswith(PNG)


def extreme_log(folder: Path, loss: float, steps: int = 3) -> Trajectory:
    """A log whose loss is one number, with weights and an evaluation."""
    lines = [
        step_line(i)
        | {"loss": loss, "classes": loss, "polarity": -loss, "share_0": 1.0, "share_1": 0.0}
        | {f"inner/{key}_{name}": loss for key in ("lambda", "w", "c") for name in ("classes", "polarity")}
        for i in range(1, steps + 1)
    ]
    log = read_trajectory(write_log(folder, *lines, evaluation_line(steps, 0.0)))
    assert log is not None
    return log


@pytest.mark.parametrize("loss", [1e300, -5e-324])
def test_charts_of_training_draw_numbers_of_any_size(tmp_path: Path, loss: float) -> None:
    log = extreme_log(tmp_path, loss)
    for content in (
        charts.losses_chart("stage", {"run": log}),
        charts.weights_chart("stage", log, "inner"),
    ):
        assert content is not None
        assert content.startswith(PNG)
