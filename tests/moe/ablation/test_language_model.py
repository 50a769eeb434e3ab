"""Tests for the ablation of a language model, on questions and on held-out text."""

from pathlib import Path

import pytest
from corpora import instructed_workspace, make_lm_workspace

from experts.errors import Fault
from moe.ablation.run import ablate, list_variants
from moe.ablation.variants import inference_variants
from moe.ablation.view import ablation_view
from moe.qa.evaluate import evaluate_qa_folder
from moe.runs.workspace import Workspace


@pytest.fixture(scope="module")
def instructed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Run with an instruction-tuned mixture."""
    return instructed_workspace(tmp_path_factory.getbasetemp())


NAMES = ["full", "without-news", "without-forum", "only-news", "only-forum", "backbone-alone"]
ROUTED = ["routing-hard", "routing-uniform", "routing-oracle"]
ROUTED += ["merged-linear", "merged-svd", "merged-ties", "merged-dare"]


def test_ablate_evaluates_without_each_expert_with_only_one_and_with_none(instructed: Workspace) -> None:
    assert [variant.name for variant in list_variants(instructed)] == [*NAMES, *ROUTED]
    content = ablate(instructed)
    rows = {row.name: row for row in content.rows}
    assert list(rows) == [*NAMES, *ROUTED]
    assert content.model.endswith("moe-instruct")
    report = evaluate_qa_folder(instructed, instructed.out / "moe-instruct")
    assert rows["full"].mean.accuracy == report.mean.accuracy
    assert rows["backbone-alone"].mean.accuracy < rows["full"].mean.accuracy
    assert rows["backbone-alone"].difference.accuracy < 0
    assert rows["only-news"].tasks == rows["without-forum"].tasks, "without one of two experts, only the other is left"
    for name in ("full", "only-news", "backbone-alone"):
        assert rows[name].perplexity.keys() == {"news", "forum"}
    assert not rows["routing-hard"].perplexity
    assert Path(content.chart).read_bytes().startswith(b"\x89PNG")
    assert ablation_view(content)


def test_ablate_of_a_run_without_questions_has_perplexities_only(instructed: Workspace) -> None:
    domains = {name: domain.model_copy(update={"tasks": {}}) for name, domain in instructed.run.domains.items()}
    without_questions = Workspace(instructed.run.model_copy(update={"domains": domains}), instructed.out)
    content = ablate(without_questions, only=["only-news"])
    assert [row.name for row in content.rows] == ["full", "only-news"]
    assert all(row.mean is None and row.perplexity for row in content.rows)
    assert Path(content.chart).is_file()
    assert ablation_view(content)
    without_corpora = {name: domain.model_copy(update={"corpus": ()}) for name, domain in domains.items()}
    with pytest.raises(Fault, match="neither"):
        ablate(Workspace(instructed.run.model_copy(update={"domains": without_corpora}), instructed.out))


def test_retrained_variants_are_refused_for_language_models(instructed: Workspace, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="gate-hard"):
        ablate(instructed, only=["gate-hard"])
    with pytest.raises(Fault, match="mixture"):
        ablate(make_lm_workspace(tmp_path))


def test_role_of_several_experts_is_also_left_out_as_a_group() -> None:
    variants = inference_variants(
        ["macro", "calls", "filings"], [], True, {"macro": ["macro"], "micro": ["calls", "filings"]}
    )
    without = {variant.name: variant.without for variant in variants}
    assert without["without-role-micro"] == ("calls", "filings")
    assert "without-role-macro" not in without
    assert without["only-calls"] == ("macro", "filings")
