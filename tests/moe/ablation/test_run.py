"""Tests for ablations: what each variant evaluates, trains, reuses and refuses."""

from pathlib import Path

import pytest
from conftest import NOUNS, Make, made_up_rows, tiny_run, write_csv

from experts.errors import Fault
from moe.ablation.retrain import train_variant, variant_settings
from moe.ablation.run import ablate, list_variants
from moe.ablation.variants import FULL, RetrainedVariant, inference_variants, retrained_variants, select_variants
from moe.checkpoints.mixture import read_mixture
from moe.evaluation.evaluate import evaluate
from moe.model.mode import RoutingMode
from moe.results.ablation import AblationReport
from moe.results.base import read_result
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.pipeline import run_all
from moe.training.trainer import _StageTrainer


@pytest.fixture(scope="module")
def work(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Finished run with a shared expert; tests only add folders to it."""
    folder = tmp_path_factory.mktemp("ablate")
    for domain in NOUNS:
        write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    few = {"steps": 30, "lr": 0.02}
    settings = {
        "shared": {"r": 2},
        "heads": {"merge": "per_expert"},
        "stages": {"expert": few, "warmup": {"steps": 20}},
    }
    finished = Workspace(tiny_run(tiny_folder, folder / "data", **settings), folder / "run")
    run_all(finished)
    return finished


def by_name(content: dict) -> dict[str, dict]:
    """Rows of an ablation by name."""
    return {row.name: row for row in content.rows}


def test_ablate_evaluates_all_inference_variants_without_training(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_StageTrainer, "train", lambda *_, **__: pytest.fail("training started"))
    content = ablate(work)
    names = [FULL, "without-news", "without-forum", "without-shared", "routing-hard", "routing-uniform"]
    merged = ["merged-linear", "merged-svd", "merged-ties", "merged-dare"]
    assert [row.name for row in content.rows] == [*names, "routing-oracle", *merged]
    assert read_result(work.out / "ablation" / "ablation.json", AblationReport) == content
    assert (work.out / "ablation" / "ablation.png").read_bytes().startswith(b"\x89PNG")
    for row in content.rows[1:]:
        for name in ("accuracy", "macro_f1"):
            low, high = getattr(row.difference, f"{name}_interval")
            assert low <= getattr(row.difference, name) <= high
            difference = getattr(row.mean, name) - getattr(content.rows[0].mean, name)
            assert getattr(row.difference, name) == pytest.approx(difference)


def test_full_and_oracle_variants_equal_evaluate_without_and_with_pin(work: Workspace) -> None:
    rows = by_name(ablate(work))
    mixture, card = read_mixture(best_model(work.out))
    for name, pin in ((FULL, False), ("routing-oracle", True)):
        report, _ = evaluate(mixture, work.rows("test"), card.template, 16, pin=pin)
        assert rows[name].mean.macro_f1 == pytest.approx(report.mean.macro_f1)


def test_variant_without_an_expert_changes_the_predictions_of_its_domain(work: Workspace) -> None:
    mixture, card = read_mixture(best_model(work.out))
    variants = inference_variants(card.routed, card.shared)
    variant = next(variant for variant in variants if variant.name == "without-news")
    mode = RoutingMode(without=variant.without)
    report, _ = evaluate(mixture, work.rows("test", ["news"]), card.template, 16, mode=mode)
    full, _ = evaluate(mixture, work.rows("test", ["news"]), card.template, 16)
    assert report.tasks["news"] != full.tasks["news"]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("balance-off", "inner-constant", "outer-constant")]


@pytest.mark.parametrize("name", ["polarity-off", "gate-uniform", *SLOW])
def test_retrained_router_variant_reuses_the_experts_of_the_run(
    work: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train = _StageTrainer.train
    monkeypatch.setattr(
        _StageTrainer, "train", lambda self, **kw: trained.append(Path(self.args.output_dir).name) or train(self, **kw)
    )
    content = ablate(work, only=[name], retrain=True)
    assert trained == ["router-warmup", "moe-joint"]
    assert [row.name for row in content.rows] == [FULL, name]
    assert content.rows[1].kind == "retrained"
    ablate(work, only=[name], retrain=True)
    assert len(trained) == 2, "a finished variant is not trained again"


@pytest.mark.slow
def test_retrained_uniform_gates_are_equal(work: Workspace) -> None:
    ablate(work, only=["gate-uniform"], retrain=True)
    mixture, card = read_mixture(best_model(work.out / "ablation" / "gate-uniform"))
    assert card.gate.kind == "fixed"
    _, rows = evaluate(mixture, work.rows("test"), card.template, 16)
    assert {round(float(weight), 6) for row in rows for weight in row.masked.routing_weights} == {0.5}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shared-off", "trunk-0"])
def test_variant_that_changes_the_experts_is_trained_from_scratch(work: Workspace, name: str) -> None:
    content = ablate(work, only=[name], retrain=True)
    assert len(content.rows) == 2
    own = work.out / "ablation" / name
    assert {path.name for path in (own / "experts").iterdir()} >= {"news", "forum"}
    assert not (own / "data").exists(), "prepared rows are those of the run"


def test_folder_of_a_variant_with_another_config_is_refused(work: Workspace) -> None:
    variant = RetrainedVariant("odd", "for the test", ("losses.without=[balance]",), "merged")
    train_variant(work, variant)
    with pytest.raises(Fault, match="one of another config"):
        train_variant(work, RetrainedVariant("odd", "for the test", ("losses.without=[domain]",), "merged"))


def test_retrained_variants_are_valid_configs_that_differ_from_the_run(make_work: Make) -> None:
    for over in ({}, {"shared": {"r": 2}}, {"gate": {"kind": "fixed", "fixed": [1, 3]}}, {"gate": {"top_k": 2}}):
        run = make_work(**over).run
        variants = retrained_variants(run)
        assert all(variant_settings(run, variant) != run for variant in variants)
        assert len({variant.name for variant in variants}) == len(variants)


def test_retrained_variants_omit_what_the_run_already_lacks(make_work: Make) -> None:
    losses = {"outer": "constant", "inner": "constant", "classes": "cross_entropy", "without": ["polarity"]}
    names = {variant.name for variant in retrained_variants(make_work(losses=losses).run)}
    assert not names & {"outer-constant", "inner-constant", "imbalance-off", "polarity-off", "gate-team", "shared-off"}
    assert {"domain-loss-off", "balance-off", "gate-hard", "gate-uniform", "shared-on", "trunk-0"} <= names


def test_team_gates_are_a_variant_if_experts_share_a_role(make_work: Make) -> None:
    run = make_work(domains={"news": {"role": "desk"}, "forum": {"role": "desk"}}).run
    assert "gate-team" in {variant.name for variant in retrained_variants(run)}


def test_constant_inner_weights_disable_learned_imbalance(make_work: Make) -> None:
    run = make_work(dao={"imbalance": "learn"}).run
    variant = next(variant for variant in retrained_variants(run) if variant.name == "inner-constant")
    assert variant_settings(run, variant).dao.imbalance == "fixed"


def test_unknown_variant_and_variant_that_needs_training_are_refused(work: Workspace) -> None:
    variants = list_variants(work)
    with pytest.raises(Fault, match="Did you mean routing-hard"):
        select_variants(variants, ["routing-hrad"], retrain=False)
    with pytest.raises(Fault, match="Add --retrain"):
        select_variants(variants, ["balance-off"], retrain=False)
    selected = select_variants(variants, ["routing-hard"], retrain=False)
    assert [variant.name for variant in selected] == [FULL, "routing-hard"]


def test_retrained_variants_need_a_finished_run(work: Workspace, tmp_path: Path) -> None:
    (tmp_path / "moe-init").symlink_to(work.out / "moe-init")
    with pytest.raises(Fault, match="a finished run"):
        ablate(Workspace(work.run, tmp_path, work.out), only=["balance-off"], retrain=True)


def test_ablate_refuses_an_empty_run_and_a_single_expert(work: Workspace, make_work: Make) -> None:
    with pytest.raises(Fault, match="a mixture in"):
        ablate(make_work("nowhere"))
    with pytest.raises(Fault, match="a single expert"):
        ablate(work, work.out / "experts" / "news")


def test_page_lists_every_variant(make_work: Make) -> None:
    page = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    runs = [make_work(**over).run for over in ({}, {"shared": {"r": 2}}, {"gate": {"kind": "fixed"}})]
    variants = [*(variant for run in runs for variant in retrained_variants(run)), *inference_variants(("a",), ())]
    names = {variant.name for variant in variants}
    assert not [name for name in names if f"`{name}`" not in page and not name.startswith("trunk-")]
