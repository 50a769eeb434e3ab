"""Claims about a language model's ablation: experts left out, alone and none, on questions and on held-out text."""

from pathlib import Path

import pytest
from corpora import make, taught_below

from experts.errors import Fault
from moe.ablation.run import ablate, list_variants
from moe.ablation.variants import inference_variants
from moe.ablation.view import ablation_view
from moe.qa.evaluate import evaluate_qa_folder
from moe.runs.workspace import Workspace


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A team that was taught its questions."""
    return taught_below(tmp_path_factory.getbasetemp())


NAMES = ["full", "without-news", "without-forum", "only-news", "only-forum", "backbone-alone"]
ROUTED = ["routing-hard", "routing-uniform", "routing-oracle"]
ROUTED += ["merged-linear", "merged-svd", "merged-ties", "merged-dare"]


def test_every_role_is_left_out_and_left_alone_and_the_backbone_too(taught: Workspace) -> None:
    assert [row.name for row in list_variants(taught)] == [*NAMES, *ROUTED]
    content = ablate(taught)
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == [*NAMES, *ROUTED]
    assert content["model"].endswith("moe-instruct")
    exam = evaluate_qa_folder(taught, taught.out / "moe-instruct")
    assert rows["full"]["mean"]["accuracy"] == exam["mean"]["accuracy"]
    assert rows["backbone-alone"]["mean"]["accuracy"] < rows["full"]["mean"]["accuracy"]
    assert rows["backbone-alone"]["difference"]["accuracy"] < 0
    assert rows["only-news"]["tasks"] == rows["without-forum"]["tasks"], "of two, to leave one out leaves one alone"
    for name in ("full", "only-news", "backbone-alone"):
        assert rows[name]["perplexity"].keys() == {"news", "forum"}
    assert "perplexity" not in rows["routing-hard"]
    assert Path(content["chart"]).read_bytes().startswith(b"\x89PNG")
    assert ablation_view(content)


def test_a_run_with_corpora_alone_has_perplexities_alone(taught: Workspace) -> None:
    domains = {name: one.model_copy(update={"tasks": {}}) for name, one in taught.run.domains.items()}
    silent = Workspace(taught.run.model_copy(update={"domains": domains}), taught.out)
    content = ablate(silent, only=["only-news"])
    assert [row["name"] for row in content["rows"]] == ["full", "only-news"]
    assert all(row["mean"] is None and row["perplexity"] for row in content["rows"])
    assert Path(content["chart"]).is_file()
    assert ablation_view(content)
    bare = {name: one.model_copy(update={"corpus": ()}) for name, one in domains.items()}
    with pytest.raises(Fault, match="neither"):
        ablate(Workspace(taught.run.model_copy(update={"domains": bare}), taught.out))


def test_rows_that_train_are_not_for_language_models(taught: Workspace, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="gate-hard"):
        ablate(taught, only=["gate-hard"])
    with pytest.raises(Fault, match="mixture"):
        ablate(make(tmp_path))


def test_a_role_of_several_experts_is_left_out_as_a_whole_too() -> None:
    rows = inference_variants(["macro", "calls", "filings"], [], True, {"macro": ["macro"], "micro": ["calls", "filings"]})
    found = {row.name: row.without for row in rows}
    assert found["without-role-micro"] == ("calls", "filings")
    assert "without-role-macro" not in found
    assert found["only-calls"] == ("macro", "filings")
