"""Claims about the verdict of a run: paired differences of macro-F1, and the same in words."""

import numpy as np
import pytest

from moe.bootstrap import TaskPredictions, bootstrap_differences
from moe.evaluation.results import (
    ModelResult,
    ScoreAnswers,
    TaskResult,
    label_result,
    mean_figures,
    score_result,
)
from moe.evaluation.verdict import compare_results, compare_scores, conclusions
from moe.results.metrics import ScoreMetrics
from moe.results.run import Difference, ModelDifference

NAMES = ("negative", "neutral", "positive")


def result(accuracies: dict[str, float], rows: int = 300) -> ModelResult:
    """Results of a model that is right for a share of each task's rows, the same rows for every model."""
    results: ModelResult = {}
    for task, accuracy in accuracies.items():
        random = np.random.default_rng(len(task))
        true = [NAMES[i % 3] for i in range(rows)]
        lucky = random.random(rows) < accuracy
        predicted = [NAMES[(i + (not right)) % 3] for i, right in enumerate(lucky)]
        results[task] = label_result([f"{task}{i}" for i in range(rows)], true, predicted, NAMES, None)
    return results


def predictions(results: ModelResult) -> list[TaskPredictions]:
    """Predictions of the tasks that have labels."""
    return [task.predictions for task in results.values() if task.predictions is not None]


def test_differences_are_those_of_the_paired_bootstrap_and_in_order() -> None:
    ours, theirs = result({"news": 0.8, "forum": 0.7}), result({"news": 0.6, "forum": 0.7})
    differences = compare_results(ours, {"own expert": theirs, "tfidf": theirs, "moe-init": theirs})
    assert list(differences) == ["tfidf", "own expert"]
    expected = bootstrap_differences(predictions(ours), predictions(theirs))["macro_f1"]
    assert differences["tfidf"].mean == Difference(difference=expected.value, interval=(expected.low, expected.high))
    assert differences["tfidf"].tasks["forum"] == Difference(difference=0.0, interval=(0.0, 0.0))
    assert differences["tfidf"].tasks["news"].interval[0] > 0.1


def test_conclusions_say_better_worse_or_that_no_difference_is_shown() -> None:
    ours = result({"news": 0.8, "forum": 0.7})
    others = {
        "tfidf": result({"news": 0.5, "forum": 0.5}),
        "own expert": result({"news": 0.8, "forum": 0.7}),
        "pooled LoRA": result({"news": 0.95, "forum": 0.69}),
    }
    better, equal, worse = conclusions("moe-joint", compare_results(ours, others))
    assert better.startswith("moe-joint: better than TF-IDF by ")
    assert "; by task, better on news (+" in better
    assert equal == (
        "moe-joint: no difference from its own experts is shown: +0.0 points of macro-F1 (95 %: +0.0 to +0.0)"
    )
    assert worse.startswith("moe-joint: worse than one pooled LoRA by ")
    assert "worse on news (-" in worse


def test_interval_in_words_has_the_direction_of_the_difference() -> None:
    sentences = conclusions(
        "m",
        {
            "tfidf": ModelDifference(mean=Difference(difference=-0.02, interval=(-0.031, -0.009))),
            "own expert": ModelDifference(mean=Difference(difference=0.003, interval=(-0.012, 0.019))),
        },
    )
    assert sentences == [
        "m: worse than TF-IDF by 2.0 points of macro-F1 (95 %: 0.9 to 3.1)",
        "m: no difference from its own experts is shown: +0.3 points of macro-F1 (95 %: -1.2 to +1.9)",
    ]


def test_task_that_a_model_lacks_is_not_compared() -> None:
    ours = result({"news": 0.8, "forum": 0.7}) | {"scored": TaskResult(scores=ScoreMetrics(mse=0.1, mae=0.1))}
    differences = compare_results(
        ours, {"tfidf": result({"news": 0.6}) | {"scored": TaskResult(scores=ScoreMetrics(mse=0.2, mae=0.2))}}
    )
    assert list(differences["tfidf"].tasks) == ["news"]


def scored(noise: float, rows: int = 200) -> TaskResult:
    """Result of a task with scores alone, whose predictions are the scores plus noise."""
    random = np.random.default_rng(0)
    true = random.uniform(-1, 1, rows)
    predicted = np.clip(true + noise * random.normal(size=rows), -1, 1)
    return score_result(ScoreAnswers(tuple(map(str, range(rows))), true, predicted))


def test_tasks_with_a_score_alone_are_compared_by_concordance() -> None:
    others = {"tfidf": {"scored": scored(1.0)}, "own expert": {"scored": scored(0.1)}}
    ours = {"scored": scored(0.1)}
    assert compare_results(ours, others) == {}
    differences = compare_scores(ours, others)
    mean = differences["tfidf"].mean
    assert mean.difference == pytest.approx(ours["scored"].scores.ccc - others["tfidf"]["scored"].scores.ccc)
    assert 0 < mean.interval[0] < mean.difference < mean.interval[1]
    better, equal = conclusions("m", {}, differences)
    assert better.startswith("m: better than TF-IDF by ")
    assert "points of CCC" in better
    assert "no difference from its own experts is shown: +0.0 points of CCC (95 %: +0.0 to +0.0)" in equal


def test_scores_beside_labels_are_not_compared_twice() -> None:
    with_labels = result({"news": 0.8})["news"]
    both = {"news": TaskResult(with_labels.ids, with_labels.predictions, with_labels.metrics, scored(0.1).scores)}
    assert list(compare_results(both, {"tfidf": both})) == ["tfidf"]
    assert compare_scores(both, {"tfidf": both}) == {}


def test_different_rows_are_not_paired() -> None:
    ours, theirs = result({"news": 0.8}), result({"news": 0.6})
    other_ids = {"news": TaskResult(("x",) * 300, theirs["news"].predictions, theirs["news"].metrics)}
    with pytest.raises(AssertionError, match="paired by row"):
        compare_results(ours, {"tfidf": other_ids})


def test_mean_is_over_tasks_with_labels() -> None:
    results = result({"news": 0.8, "forum": 0.6}) | {"scored": TaskResult(scores=ScoreMetrics(mse=0.1, mae=0.1))}
    means = mean_figures(results)
    assert means.macro_f1 == pytest.approx(np.mean([results[task].metrics.macro_f1 for task in ("news", "forum")]))
    low, high = means.macro_f1_interval
    assert low < means.macro_f1 < high
    assert mean_figures({"scored": results["scored"]}) is None
