"""Tests of vLLM's rules: every rule that an adapter breaks is reported, all at once."""

import pytest

from moe.export.vllm_rules import find_violations, smallest_max_lora_rank

CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "use_dora": False,
    "init_lora_weights": True,
}
NAME = "base_model.model.model.layers.0.self_attn.q_proj"
SHAPES = {f"{NAME}.lora_A.weight": (4, 32), f"{NAME}.lora_B.weight": (32, 4)}


def test_plain_adapter_has_no_violations() -> None:
    assert find_violations(CONFIG, SHAPES) == []
    assert find_violations(CONFIG | {"use_rslora": True}, SHAPES) == [], "vLLM reads its scaling"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "only LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"trainable_token_indices": [1]}, "tokens"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"target_modules": None}, "target_modules is missing"),
        ({"r": 0}, "must be a positive integer"),
        ({"r": 600}, "at most 512"),
        ({"r": 8}, "has rank 4, not 8"),
    ],
)
def test_unsupported_config_is_reported(changes: dict, message: str) -> None:
    assert any(message in violation for violation in find_violations(CONFIG | changes, SHAPES))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "no tensors"),
        ({f"{NAME}.lora_A.weight": (4, 32)}, "lora_B.weight is missing"),
        (SHAPES | {f"{NAME}.lora_A.default.weight": (4, 32)}, "no lora_A.weight"),
        (SHAPES | {"base_model.model.lm_head.weight": (99, 32)}, "lm_head.weight is no"),
        ({name.removeprefix("base_model."): shape for name, shape in SHAPES.items()}, "does not start"),
    ],
)
def test_unsupported_tensor_names_are_reported(shapes: dict, message: str) -> None:
    assert any(message in violation for violation in find_violations(CONFIG, shapes))


def test_all_violations_are_reported_at_once() -> None:
    assert len(find_violations({"r": "4", "use_dora": True, "bias": "all"}, {"x": (1,)})) >= 5


def test_smallest_max_lora_rank_is_the_next_allowed_value() -> None:
    assert [smallest_max_lora_rank(rank) for rank in (1, 4, 8, 48, 512, 513)] == [1, 8, 8, 64, 512, None]
