"""Tests for terminal tables that compare models: they fit the page for any number of domains and models."""

import io
import re

import pytest
from result_samples import evaluation, label_metrics
from rich.console import Console, RenderableType

from moe.report.terminal import comparison_table, evaluation_view, routing_table
from moe.results.evaluation import RoutingReport
from moe.results.metrics import MeanMetrics, TaskFigures
from moe.results.run import FiguresByModel

MODELS = ("majority", "tfidf", "shared expert", "own expert", "pooled LoRA", "moe-init", "router-warmup", "moe-joint")
MODELS = (*MODELS, "moe-joint, hard", "moe-joint, pinned")


def domains(count: int) -> list[str]:
    """Names of 14 letters."""
    return [f"domain_{chr(ord('a') + i)}_names" for i in range(count)]


def figures(count: int, models: tuple[str, ...] = MODELS) -> FiguresByModel:
    """Metrics with intervals; model i has a macro-F1 of .3 + i / 20 on all tasks."""
    return {
        model: {
            task: TaskFigures(
                accuracy=0.4 + i / 20, accuracy_interval=(0.3, 0.9), macro_f1=0.3 + i / 20, macro_f1_interval=(0.1, 0.3)
            )
            for task in domains(count)
        }
        for i, model in enumerate(models)
    }


def render(view: RenderableType, width: int, styles: bool = False) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=styles, color_system="standard" if styles else None).print(view)
    return stream.getvalue()


def count_bold(output: str, value: str) -> int:
    return len(re.findall(rf"\x1b\[1m *{re.escape(value)}", output))


def routing(count: int, experts: list[str] | None = None) -> RoutingReport:
    names = experts or domains(count)
    table = {
        name: {other: 0.9 if i == k else 0.1 / len(names) for k, other in enumerate(names)}
        for i, name in enumerate(domains(count))
    }
    return RoutingReport(accuracy=0.9, entropy=0.2, table=table)


@pytest.mark.parametrize("count", [1, 2, 6, 12])
@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_table_is_wider_than_the_page_and_no_value_is_lost(count: int, width: int) -> None:
    output = render(comparison_table("test rows", figures(count)), width)
    assert max(map(len, output.splitlines())) <= min(width, 100)
    assert output.count("±.100") == count * len(MODELS)
    assert max(map(len, render(routing_table(routing(count)), width).splitlines())) <= min(width, 100)


def test_domains_are_rows_and_their_mean_is_the_last_one() -> None:
    models = figures(6, ("tfidf", "moe-joint"))
    lines = [line.split()[1] for line in render(comparison_table("test", models), 100).splitlines() if line[0] == "│"]
    assert lines == [*domains(6), "mean"]
    means = {"tfidf": MeanMetrics(accuracy=0.5, macro_f1=0.111, macro_f1_interval=(0.0, 0.2))}
    row = render(comparison_table("test", models, means), 100).splitlines()[-2]
    assert "0.111 ±.100" in row, "the given mean"
    assert "0.350" in row, "the mean over the tasks"


def test_accuracy_is_shown_for_few_tasks_only() -> None:
    assert "accuracy" in render(comparison_table("test", figures(2)), 100)
    assert "accuracy" not in render(comparison_table("test", figures(4)), 100)


def test_best_value_of_each_task_is_bold() -> None:
    output = render(comparison_table("test", figures(4, ("tfidf", "moe-joint"))), 100, styles=True)
    assert count_bold(output, "0.350") == 5, "four tasks and the mean"
    assert count_bold(output, "0.300") == 0


def test_model_without_a_task_has_a_dash_and_no_mean() -> None:
    models = figures(6, ("tfidf", "own expert"))
    del models["own expert"][domains(6)[0]]
    lines = render(comparison_table("test", models), 100).splitlines()
    assert sum("–" in line for line in lines) == 2


def test_tasks_with_scores_have_a_table_of_errors_and_correlations() -> None:
    models = figures(2, ("tfidf", "moe-joint"))
    task, scores = domains(2)[0], {"mse": 0.12, "mae": 0.3, "pearson": None, "cosine": 0.5}
    models["tfidf"][task] = models["tfidf"][task].model_copy(update=scores)
    scores = {"mse": 0.08, "mae": 0.2, "pearson": 0.6, "cosine": 0.7}
    models["moe-joint"][task] = models["moe-joint"][task].model_copy(update=scores)
    output = render(comparison_table("test", models), 100, styles=True)
    for word in ("MSE", "MAE", "Pearson", "Spearman", "cosine"):
        assert word in output
    assert count_bold(output, "0.080") == 1, "the smallest error is the best"
    assert count_bold(output, "0.700") == 1, "the largest similarity is the best"
    assert "nan" not in output.lower()


def test_routing_table_numbers_experts_whose_names_do_not_fit() -> None:
    output = render(routing_table(routing(12)), 100)
    assert "12 domain_l_names" in output
    assert "90" in output
    assert "·" in output, "small weights"
    assert "%" not in "".join(line for line in output.splitlines() if "domain_" in line)
    named = render(routing_table(routing(2)), 100)
    assert "1 domain_a_names" not in named
    several = [f"expert-{k}-with-a-name" for k in range(8)]
    assert "8 expert-7-with-a-name" in " ".join(render(routing_table(routing(4, several)), 100).split())


def test_names_with_brackets_are_printed_as_they_are() -> None:
    models = {"[red]": {"a [b]": TaskFigures(macro_f1=0.5), "c": TaskFigures(macro_f1=0.5)}}
    output = render(comparison_table("test", models), 100)
    assert "[red]" in output
    assert "a [b]" in output


def test_evaluation_names_classes_that_are_never_predicted() -> None:
    labels = ["dovish", "neutral", "hawkish"]
    task = label_metrics(labels, [[2, 1, 0, 0], [0, 3, 0, 0], [1, 2, 0, 0]])
    assert "never predicted: hawkish (macro)" in render(evaluation_view(evaluation({"macro": task})), 100)
