"""Claims about ablations: what each row asks, trains, shares and refuses."""

import json
from pathlib import Path

import pytest
from conftest import NOUNS, Make, made_up_rows, tiny_run, write_csv

from experts.errors import Fault
from moe.ablation.retrain import variant_settings, retrain
from moe.ablation.run import ablate, list_variants
from moe.ablation.variants import FULL, RetrainedVariant, inference_variants, select_variants, retrained_variants
from moe.checkpoints.mixture import read_mixture
from moe.evaluation.evaluate import evaluate
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.pipeline import run_all
from moe.training.trainer import _StageTrainer


@pytest.fixture(scope="module")
def work(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished run with a shared expert, for the tests that add folders to it alone."""
    place = tmp_path_factory.mktemp("ablate")
    for domain in NOUNS:
        write_csv(place / "data" / f"{domain}.csv", made_up_rows(domain))
    few = {"steps": 30, "lr": 0.02}
    settings = {
        "shared": {"r": 2},
        "heads": {"merge": "per_expert"},
        "stages": {"expert": few, "warmup": {"steps": 20}},
    }
    done = Workspace(tiny_run(tiny_folder, place / "data", **settings), place / "run")
    run_all(done)
    return done


def by_name(content: dict) -> dict[str, dict]:
    """The rows of an ablation by name."""
    return {row["name"]: row for row in content["rows"]}


def test_bare_it_asks_the_trained_mixture_in_every_way_and_trains_nothing(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_StageTrainer, "train", lambda *_, **__: pytest.fail("it trains"))
    content = ablate(work)
    names = [FULL, "without-news", "without-forum", "without-shared", "routing-hard", "routing-uniform"]
    merged = ["merged-linear", "merged-svd", "merged-ties", "merged-dare"]
    assert [row["name"] for row in content["rows"]] == [*names, "routing-oracle", *merged]
    assert json.loads((work.out / "ablation" / "ablation.json").read_text()) == content
    assert (work.out / "ablation" / "ablation.png").read_bytes().startswith(b"\x89PNG")
    for row in content["rows"][1:]:
        for name in ("accuracy", "macro_f1"):
            low, high = row["difference"][f"{name}_interval"]
            assert low <= row["difference"][name] <= high
            told = row["mean"][name] - content["rows"][0]["mean"][name]
            assert row["difference"][name] == pytest.approx(told)


def test_the_full_row_is_what_evaluate_says_and_the_oracle_what_pinning_says(work: Workspace) -> None:
    rows = by_name(ablate(work))
    mixture, card = read_mixture(best_model(work.out))
    for name, pin in ((FULL, False), ("routing-oracle", True)):
        report, _ = evaluate(mixture, work.rows("test"), card.template, 16, pin=pin)
        assert rows[name]["mean"]["macro_f1"] == pytest.approx(report["mean"]["macro_f1"])


def test_an_expert_dropped_by_ablation_answers_nothing(work: Workspace) -> None:
    mixture, card = read_mixture(best_model(work.out))
    row = next(one for one in inference_variants(card.routed, card.shared) if one.name == "without-news")
    with mixture.ablated(row.without):
        report, _ = evaluate(mixture, work.rows("test", ["news"]), card.template, 16)
    alone, _ = evaluate(mixture, work.rows("test", ["news"]), card.template, 16)
    assert report["tasks"]["news"] != alone["tasks"]["news"]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("balance-off", "inner-constant", "outer-constant")]


@pytest.mark.parametrize("name", ["polarity-off", "gate-uniform", *SLOW])
def test_a_row_of_the_router_starts_from_the_runs_experts(
    work: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    plain = _StageTrainer.train
    monkeypatch.setattr(
        _StageTrainer, "train", lambda self, **kw: trained.append(Path(self.args.output_dir).name) or plain(self, **kw)
    )
    content = ablate(work, only=[name], again=True)
    assert trained == ["router-warmup", "moe-joint"]
    assert [row["name"] for row in content["rows"]] == [FULL, name]
    assert content["rows"][1]["kind"] == "retrained"
    ablate(work, only=[name], again=True)
    assert len(trained) == 2, "a finished row is kept"


@pytest.mark.slow
def test_gates_that_are_equal_by_training_are_equal(work: Workspace) -> None:
    ablate(work, only=["gate-uniform"], again=True)
    mixture, card = read_mixture(best_model(work.out / "ablation" / "gate-uniform"))
    assert card.gate.kind == "fixed"
    _, judged = evaluate(mixture, work.rows("test"), card.template, 16)
    assert {round(float(share), 6) for one in judged for share in one.masked.routing_weights} == {0.5}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shared-off", "trunk-0"])
def test_a_row_that_changes_experts_is_trained_whole(work: Workspace, name: str) -> None:
    content = ablate(work, only=[name], again=True)
    assert len(content["rows"]) == 2
    own = work.out / "ablation" / name
    assert {one.name for one in (own / "experts").iterdir()} >= {"news", "forum"}
    assert not (own / "data").exists(), "rows are the run's"


def test_a_row_of_another_config_is_refused(work: Workspace) -> None:
    row = RetrainedVariant("odd", "for the test", ("losses.without=[balance]",), "merged")
    retrain(work, row)
    with pytest.raises(Fault, match="one of another config"):
        retrain(work, RetrainedVariant("odd", "for the test", ("losses.without=[domain]",), "merged"))


def test_every_row_is_a_config_without_fault_that_differs_from_the_run(make_work: Make) -> None:
    for over in ({}, {"shared": {"r": 2}}, {"gate": {"kind": "fixed", "fixed": [1, 3]}}, {"gate": {"top_k": 2}}):
        run = make_work(**over).run
        rows = retrained_variants(run)
        assert all(variant_settings(run, row) != run for row in rows)
        assert len({row.name for row in rows}) == len(rows)


def test_what_the_run_does_without_is_no_row(make_work: Make) -> None:
    losses = {"outer": "constant", "inner": "constant", "classes": "cross_entropy", "without": ["polarity"]}
    names = {row.name for row in retrained_variants(make_work(losses=losses).run)}
    assert not names & {"outer-constant", "inner-constant", "imbalance-off", "polarity-off", "gate-team", "shared-off"}
    assert {"domain-loss-off", "balance-off", "gate-hard", "gate-uniform", "shared-on", "trunk-0"} <= names


def test_team_gates_are_a_row_where_experts_share_a_role(make_work: Make) -> None:
    run = make_work(domains={"news": {"role": "desk"}, "forum": {"role": "desk"}}).run
    assert "gate-team" in {row.name for row in retrained_variants(run)}


def test_inner_dao_that_learns_imbalance_gives_it_up_with_constants(make_work: Make) -> None:
    run = make_work(dao={"imbalance": "learn"}).run
    row = next(row for row in retrained_variants(run) if row.name == "inner-constant")
    assert variant_settings(run, row).dao.imbalance == "fixed"


def test_an_unknown_row_and_one_that_needs_training_are_refused(work: Workspace) -> None:
    rows = list_variants(work)
    with pytest.raises(Fault, match="Did you mean routing-hard"):
        select_variants(rows, ["routing-hrad"], False)
    with pytest.raises(Fault, match="Add --retrain"):
        select_variants(rows, ["balance-off"], False)
    assert [row.name for row in select_variants(rows, ["routing-hard"], False)] == [FULL, "routing-hard"]


def test_retrained_rows_are_held_against_a_finished_run_alone(work: Workspace, tmp_path: Path) -> None:
    (tmp_path / "moe-init").symlink_to(work.out / "moe-init")
    with pytest.raises(Fault, match="a finished run"):
        ablate(Workspace(work.run, tmp_path, work.out), only=["balance-off"], again=True)


def test_no_run_and_a_lone_expert_are_refused(work: Workspace, make_work: Make) -> None:
    with pytest.raises(Fault, match="a mixture in"):
        ablate(make_work("nowhere"))
    with pytest.raises(Fault, match="a lone expert"):
        ablate(work, work.out / "experts" / "news")


def test_the_page_tells_every_row(make_work: Make) -> None:
    page = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    runs = [make_work(**over).run for over in ({}, {"shared": {"r": 2}}, {"gate": {"kind": "fixed"}})]
    names = {row.name for run in runs for row in retrained_variants(run)} | {row.name for row in inference_variants(("a",), ())}
    assert not [name for name in names if f"`{name}`" not in page and not name.startswith("trunk-")]
