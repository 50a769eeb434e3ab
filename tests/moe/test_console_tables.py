"""Tests for terminal tables: no number is broken or dropped at any terminal width."""

import io
import re
from typing import Any

import pytest
from result_samples import evaluation, label_metrics
from rich.console import Console, RenderableType
from rich.text import Text

from moe.console import Table
from moe.evaluation.compare import comparison_view
from moe.report.terminal import answers_table, evaluation_view
from moe.results.evaluation import Comparison, MetricDifference, RoutingReport, TaskComparison

INTERVAL = (0.827, 0.903)
LABELS = ["negative", "neutral", "positive"]
TASK = label_metrics(LABELS, [[87, 0, 13]] * 3, accuracy=0.867, macro_f1=0.871, intervals=(INTERVAL, INTERVAL))
ROUTING = RoutingReport(accuracy=1.0, entropy=0.032, table={"news": {"news": 0.998, "forum": 0.002}})
EVALUATION = evaluation({"news": TASK, "forum": TASK}, routing=ROUTING)
PAIR = MetricDifference(a=0.84, b=0.79, difference=0.05, interval=(-0.003, 0.107), verdict="none")
COMPARED = TaskComparison(accuracy=PAIR, macro_f1=PAIR, rows=600, mcnemar_p=0.091)
COMPARISON = Comparison(
    a="runs/a", b="runs/b", tasks={"news": COMPARED}, mean=COMPARED, scores={}, not_compared={"a": [], "b": []}
)
ANSWER = {
    "text": "Chicago based Juniper Chemicals obtained permission to issue a warning, a regulator confirmed",
    "label": "negative",
    "confidence": 0.987,
    "polarity": -0.57,
    "experts": {"news": 0.996, "forum": 0.004},
    "truncated": False,
}
VIEWS: dict[str, RenderableType] = {
    "evaluate": evaluation_view(EVALUATION),
    "compare": comparison_view(COMPARISON),
    "infer": answers_table([ANSWER], "answers"),
}
NUMBER = re.compile(r"[-+±]?\d*\.\d+(?:–\d\.\d+)?%?")


def render(view: RenderableType, width: int, **options: Any) -> str:
    """Output of a view on a terminal of this width."""
    stream = io.StringIO()
    Console(file=stream, width=width, **options).print(view)
    return stream.getvalue()


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_table_never_breaks_a_number(name: str, width: int) -> None:
    wide, narrow = (sorted(set(NUMBER.findall(render(VIEWS[name], columns)))) for columns in (200, width))
    assert narrow == wide
    assert "…" not in render(VIEWS[name], width)
    assert all(len(line) <= width for line in render(VIEWS[name], width).splitlines())


@pytest.mark.parametrize(
    ("name", "width", "as_list"), [("infer", 80, False), ("infer", 60, True), ("compare", 60, True)]
)
def test_table_that_is_too_wide_becomes_a_list(name: str, width: int, as_list: bool) -> None:
    assert ("┃" not in render(VIEWS[name], width)) == as_list


def test_list_repeats_an_empty_first_cell_and_drops_other_empty_cells() -> None:
    table = Table(title="three")
    for name in ("task", "a long\nname", "a figure"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("news", Text("first"), "0.1234567890")
    table.add_row("", "", "0.2345678901")
    lines = [line.split() for line in render(table, 30).splitlines()]
    assert lines.count(["task", "news"]) == 2
    assert [line for line in lines if line[:2] == ["a", "long"]] == [["a", "long", "name", "first"]]


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_off_with_no_color_or_a_dumb_terminal(variable: str, value: str) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*(?:3[0-9]|4[0-9]|9[0-7])m")
    coloured = {"TERM": "xterm-256color"}
    assert colour.search(render(VIEWS["infer"], 120, force_terminal=True, _environ=coloured))
    plain = render(VIEWS["infer"], 120, force_terminal=True, _environ=coloured | {variable: value})
    assert not colour.search(plain)
