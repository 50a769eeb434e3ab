"""Claims about the routing that a mixture uses by default: the cheapest that is as good as soft, and recorded."""

from pathlib import Path

import pytest
from conftest import Make
from mixtures import random_mixture, save_random_mixture

from moe.checkpoints.mixture import read_card, read_mixture, write_mixture
from moe.checkpoints.mixture_card import RoutingDecision, RoutingFigures
from moe.evaluation import routing_choice
from moe.evaluation.routing_choice import decide_routing
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import load_backbone
from moe.model.mode import Routing
from router.gate import Gate
from router.gate_settings import GateSettings

SOFT = RoutingFigures(macro_f1=0.8, log_loss=0.5, ece=0.05, skipped=0.0)


def choose(monkeypatch: pytest.MonkeyPatch, make_work: Make, **figures: RoutingFigures) -> RoutingDecision:
    """Return the decision for a mixture whose routings have these figures on validation rows."""
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work)
    by_routing = {"soft": SOFT} | figures
    monkeypatch.setattr(routing_choice, "_figures", lambda rows, predictor: by_routing[predictor.routing])
    decision = decide_routing(model, work.rows("validation"), "{text}", 16)
    assert decision is not None
    return decision


@pytest.mark.parametrize(
    ("pruned", "hard", "choice"),
    [
        ({}, {"macro_f1": 0.7995}, "hard"),
        ({}, {"macro_f1": 0.798}, "pruned"),
        ({}, {"log_loss": 0.502}, "pruned"),
        ({"skipped": 0.5}, {"macro_f1": 0.798}, "soft"),
        ({"ece": 0.052}, {"ece": 0.052}, "soft"),
    ],
)
def test_choice_is_the_cheapest_routing_that_is_no_worse(
    pruned: dict[str, float],
    hard: dict[str, float],
    choice: Routing,
    make_work: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cheap = SOFT.model_copy(update={"skipped": 0.8})
    figures = {"pruned": cheap.model_copy(update=pruned), "hard": cheap.model_copy(update=hard)}
    decision = choose(monkeypatch, make_work, **figures)
    assert decision.choice == choice
    assert decision.figures == {"soft": SOFT} | figures
    assert f"`{choice}`" in decision.sentence


def test_decision_has_figures_of_real_rows_and_is_none_without_a_choice(make_work: Make) -> None:
    work = make_work()
    rows, model = work.rows("validation"), random_mixture(load_backbone(work.run.backbone), work, experts=2)
    decision = decide_routing(model, rows, "{text}", 16)
    assert decision is not None
    assert decision.rows == len(rows)
    assert decision.figures["soft"].skipped == 0.0
    assert decision.figures["hard"].skipped == pytest.approx(2 / 3)
    assert 0 < decision.figures["hard"].macro_f1 < 1
    assert model.gate is not None
    model.gate.settings = model.gate.settings.model_copy(update={"prune": 0.0})
    without = decide_routing(model, rows, "{text}", 16)
    assert without is not None
    assert list(without.figures) == ["soft", "hard"], "nothing is pruned at 0"
    assert decide_routing(model, rows.select([]), "{text}", 16) is None
    model.gate = Gate(model.backbone.config.hidden_size, ["news"], GateSettings())
    assert decide_routing(model, rows, "{text}", 16) is None, "one expert leaves no choice"


def test_routing_auto_is_what_the_card_says_and_soft_without(make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    old = save_random_mixture(tmp_path / "old", load_backbone(work.run.backbone), work)
    model, card = read_mixture(old)
    assert TorchPredictor(model, "{text}", 16, "auto").routing == "soft"
    decision = RoutingDecision(choice="hard", prune=0.02, rows=9, figures={"soft": SOFT, "hard": SOFT})
    write_mixture(tmp_path / "new", model, card.model_copy(update={"routing": decision}), "", {})
    assert read_card(tmp_path / "new").routing == decision
    assert decision.sentence in (tmp_path / "new" / "README.md").read_text(encoding="utf-8")
    predictor = TorchPredictor(read_mixture(tmp_path / "new")[0], "{text}", 16, "auto")
    assert predictor.routing == predictor.spec.routing == "hard"
    assert predictor.with_options("soft").routing == "soft"
    assert predictor.with_options("soft").with_options("auto").routing == "hard"
