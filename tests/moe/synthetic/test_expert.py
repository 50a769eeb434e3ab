"""Claims about the shipped sample and the demo: word counts fail where one expert does not; domains are told apart."""

from pathlib import Path

import pytest

from moe.checkpoints.expert import load_single_expert
from moe.config.run import load_run
from moe.evaluation.baselines import baseline_reports
from moe.evaluation.evaluate import evaluate
from moe.runs.workspace import Workspace
from moe.synthetic import DOMAINS
from moe.training.pipeline import run_all
from moe.training.steps import train_domain

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    """Test accuracy of TF-IDF and of one expert on each domain."""
    found = {}
    for domain in DOMAINS:
        sets = [f"domains=[{domain}]", "sample.rows=2400", "backbone.dtype=float32"]
        work = Workspace(load_run(None, sets), tmp_path_factory.mktemp(domain))
        counts = baseline_reports(work.rows("train"), work.rows("test"), work.run.label_space(), "tfidf")
        train_domain(work, domain)
        model, run = load_single_expert(work.expert_folder(domain))
        report, _ = evaluate(model, work.rows("test"), run.template, run.backbone.max_length)
        found[domain] = counts[domain]["accuracy"], report["tasks"][domain]["accuracy"]
    print(found)
    return found


@pytest.mark.parametrize("domain", DOMAINS)
def test_one_expert_learns_what_word_counts_cannot(accuracies: dict[str, tuple[float, float]], domain: str) -> None:
    counted, expert = accuracies[domain]
    assert counted <= 0.75
    assert expert >= max(0.8, counted + 0.15)


def test_one_expert_reaches_85_percent_over_the_domains(accuracies: dict[str, tuple[float, float]]) -> None:
    assert sum(expert for _, expert in accuracies.values()) / len(accuracies) >= 0.85


def test_the_demo_s_mixture_beats_word_counts_and_its_router_tells_the_domains(tmp_path: Path) -> None:
    summary = run_all(Workspace(load_run(), tmp_path))
    for domain in ("news", "forum"):
        assert summary["figures"]["tfidf"][domain]["accuracy"] <= 0.75
        assert summary["figures"][summary["best"]][domain]["accuracy"] >= 0.8
    assert summary["routing"]["accuracy"] >= 0.97
    assert len(summary["predictions"]) == 3
