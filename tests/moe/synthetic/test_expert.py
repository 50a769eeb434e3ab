"""The sample and the demo: word counts fail where one expert succeeds, and the router separates the domains."""

from pathlib import Path

import pytest

from moe.checkpoints.expert import load_single_expert
from moe.config.run import load_run
from moe.evaluation.baselines import baseline_reports
from moe.evaluation.evaluate import evaluate
from moe.runs.workspace import Workspace
from moe.synthetic import DOMAINS
from moe.training.expert_steps import train_domain
from moe.training.pipeline import run_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    """Test accuracy of TF-IDF and of one expert on each domain."""
    accuracies = {}
    for domain in DOMAINS:
        sets = [f"domains=[{domain}]", "sample.rows=2400", "backbone.dtype=float32"]
        work = Workspace(load_run(None, sets), tmp_path_factory.mktemp(domain))
        counts = baseline_reports(work.rows("train"), work.rows("test"), work.run.label_space(), "tfidf")
        train_domain(work, domain)
        model, run = load_single_expert(work.expert_folder(domain))
        report, _ = evaluate(model, work.rows("test"), run.template, run.backbone.max_length)
        accuracies[domain] = counts[domain].accuracy, report.tasks[domain].accuracy
    print(accuracies)
    return accuracies


@pytest.mark.parametrize("domain", DOMAINS)
def test_sample_is_learned_by_one_expert_but_not_by_word_counts(
    accuracies: dict[str, tuple[float, float]], domain: str
) -> None:
    tfidf, expert = accuracies[domain]
    assert tfidf <= 0.75
    assert expert >= max(0.65, tfidf + 0.1)


def test_sample_expert_accuracy_averages_at_least_70_percent(accuracies: dict[str, tuple[float, float]]) -> None:
    assert sum(expert for _, expert in accuracies.values()) / len(accuracies) >= 0.7


def test_demo_mixture_beats_word_counts_and_routes_by_domain(tmp_path: Path) -> None:
    summary = run_all(Workspace(load_run(), tmp_path))
    for domain in ("news", "forum"):
        assert summary.figures["tfidf"][domain].accuracy <= 0.75
        assert summary.figures[summary.best][domain].accuracy >= 0.7
    assert summary.routing.accuracy >= 0.97
    assert len(summary.predictions) == 3
