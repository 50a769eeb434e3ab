"""The cost of a run from measured parts: steps fitted by their tokens, and what a changed setting saves."""

from typing import Any

import numpy as np
import pytest

from moe.config.stages import StageSettings
from moe.plan.cost_model import RunCost, StageCost, StepCost, savings
from moe.plan.dry_run import StageSize

LAYERS = 6
SETTINGS = {
    "expert": StageSettings(epochs=2.0),
    "warmup": StageSettings(steps=300),
    "joint": StageSettings(epochs=1.0),
}


def size(steps: int, batches: int) -> StageSize:
    """Batches of 32 rows, half of them of 40 tokens and half of 80."""
    rows, lengths = np.full(batches, 32), np.tile([40, 80], batches // 2)
    tokens = int((rows * lengths).sum())
    return StageSize(steps, 2, int(rows.sum()), tokens, rows, lengths)


def stage(name: str, stage: str, forward: float = 1e-4, backward: float = 2e-4, **over: Any) -> StageCost:
    step = StepCost(0.01, forward, backward)
    values: dict[str, Any] = {"size": size(20, 10), "evaluation": 5.0, "evaluations": 2, "load": 1.0, "at_most": False}
    return StageCost(stage=stage, name=name, step=step, **(values | over))


def run_cost(**over: Any) -> RunCost:
    stages = [
        stage("news", "expert"),
        stage("forum", "expert", size=size(40, 20)),
        stage("router-warmup", "warmup", backward=0.0, size=size(300, 60)),
        stage("moe-joint", "joint", size=size(60, 60)),
    ]
    values: dict[str, Any] = {
        "stages": stages,
        "rest": 10.0,
        "layers": LAYERS,
        "trunk_depth": 0,
        "fixed_shape": False,
        "cached": False,
        "cache_bytes": 2**30,
        "max_length": 96,
        "lengths": np.tile([40, 80], 480),
        "settings": SETTINGS,
        "train_rows": {"news": 320, "forum": 640},
        "validation_rows": {"news": 100, "forum": 300},
    }
    return RunCost(**(values | over))


def test_step_cost_separates_what_grows_with_tokens_from_what_does_not() -> None:
    tokens = [500, 1000, 3000]
    cost = StepCost.fit(tokens, [0.2 + 1e-3 * count for count in tokens], forward=4e-4)
    assert (cost.fixed, cost.forward, cost.backward) == pytest.approx((0.2, 4e-4, 6e-4))
    assert cost.seconds(2000) == pytest.approx(2.2)


def test_step_cost_of_equal_batches_is_proportional_and_never_negative() -> None:
    cost = StepCost.fit([1000, 1000], [1.0, 3.0], forward=5e-3)
    assert cost.fixed == 0
    assert cost.seconds(500) == pytest.approx(1.0)
    assert cost.backward == 0, "a step cannot take less than its forward pass"
    falling = StepCost.fit([100, 200, 300], [3.0, 2.0, 1.0])
    assert falling.fixed >= 0
    assert falling.seconds(200) == pytest.approx(2.0)


def test_run_cost_is_the_sum_of_steps_evaluations_loading_and_the_rest() -> None:
    cost = run_cost()
    step = 0.01 + 3e-4 * 32 * 60
    warm = 0.01 + 1e-4 * 32 * 60
    assert cost.seconds == pytest.approx(120 * step + 300 * warm + 8 * 5.0 + 4 * 1.0 + 10.0)


def test_trunk_saves_the_backward_pass_and_its_cache_the_forward_pass() -> None:
    cost, tokens = run_cost(), 32 * 60
    deeper, cached = cost.with_trunk(3, cached=False), cost.with_trunk(3, cached=True)
    assert cost.seconds - deeper.seconds == pytest.approx(120 * 2e-4 * tokens / 2)
    filled = 1e-4 / 2 * cost.lengths.sum()
    assert deeper.seconds - cached.seconds == pytest.approx(420 * 1e-4 * tokens / 2 - filled)
    assert cached.with_trunk(0, cached=False).stages[3].seconds == pytest.approx(cost.stages[3].seconds)


def test_fewer_rows_shorten_stages_counted_in_epochs_only() -> None:
    fewer = run_cost().with_train_rows(320)
    assert [stage.size.steps for stage in fewer.stages] == [20, 20, 300, 40]
    less = run_cost().with_validation_rows(100)
    assert [stage.evaluation for stage in less.stages] == pytest.approx([5, 5 / 3, 2.5, 2.5])


def test_pooled_lora_follows_the_stages_before_the_merge_and_can_be_left_out() -> None:
    plain = run_cost()
    cost = run_cost(stages=[*plain.stages, stage("pooled", "pooled", size=size(60, 30))])
    assert cost.with_setting("expert", "epochs", 1.0).stages[-1].size.steps == 30
    assert cost.without_pooled().seconds == pytest.approx(plain.seconds)
    assert "moe run --no-pooled" in [entry.change for entry in savings(cost)]


def test_savings_halve_the_setting_that_determines_the_steps() -> None:
    few = run_cost(settings=SETTINGS | {"expert": StageSettings(epochs=0.1, min_steps=60)})
    few = few.with_setting("expert", "min_steps", 400)
    changes = [entry.change for entry in savings(few)]
    assert "stages.expert.min_steps: 200" in changes
    many = run_cost(settings=SETTINGS | {"joint": StageSettings(epochs=9.0, max_steps=80)})
    many = many.with_setting("joint", "max_steps", 80)
    assert many.stages[-1].size.steps == 80
    assert "stages.joint.max_steps: 40" in [entry.change for entry in savings(many)]


def test_shorter_texts_change_only_the_batches_that_they_cut() -> None:
    shorter = run_cost().with_max_length(40)
    assert shorter.stages[0].seconds_per_step == pytest.approx(0.01 + 3e-4 * 32 * 40)
    assert shorter.stages[0].evaluation == pytest.approx(5 * 40 / 60)
    assert run_cost().with_max_length(80).seconds == pytest.approx(run_cost().seconds)


def test_savings_are_sorted_and_computed_from_the_run() -> None:
    cost = run_cost()
    listed = savings(cost)
    by_change = {entry.change: entry for entry in listed}
    assert [entry.seconds for entry in listed] == sorted(entry.seconds for entry in listed)
    assert all(entry.saved >= 0.05 * cost.seconds for entry in listed)
    warm = by_change["stages.warmup.steps: 150"]
    assert warm.seconds == pytest.approx(cost.with_setting("warmup", "steps", 150).seconds)
    deep = by_change["backbone.trunk_depth: 3 with stages.cache_trunk: true"]
    assert deep.note == "experts fit less; 1.0 GiB of disk"
    assert by_change["backbone.max_length: 40"].note == "truncates 50% of training texts"


def test_savings_suggest_nothing_that_the_run_has_already() -> None:
    cost = run_cost(trunk_depth=3).with_trunk(3, cached=True)
    changes = " ".join(entry.change for entry in savings(cost))
    assert "trunk" not in changes
    given = run_cost(fixed_shape=True)
    changes = " ".join(entry.change for entry in savings(given))
    assert changes
    assert "trunk" not in changes
    assert "max_length" not in changes
    tiny = run_cost(train_rows={"news": 40}, validation_rows={"news": 9}, lengths=np.full(40, 12))
    changes = " ".join(entry.change for entry in savings(tiny))
    assert "rows" not in changes
    assert "max_length" not in changes
