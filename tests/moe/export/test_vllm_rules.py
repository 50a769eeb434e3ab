"""Claims about vLLM's rules: each one that an adapter breaks is named, all at once."""

import pytest

from moe.export.vllm_rules import smallest_max_lora_rank, find_violations

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


def test_a_plain_adapter_breaks_none() -> None:
    assert find_violations(CONFIG, SHAPES) == []
    assert find_violations(CONFIG | {"use_rslora": True}, SHAPES) == [], "its scaling is read"


@pytest.mark.parametrize(
    ("over", "said"),
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
        ({"r": 0}, "from 1"),
        ({"r": 600}, "ends at 512"),
        ({"r": 8}, "has rank 4, not 8"),
    ],
)
def test_each_broken_rule_is_named(over: dict, said: str) -> None:
    assert any(said in one for one in find_violations(CONFIG | over, SHAPES))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({}, "no tensors"),
        ({f"{NAME}.lora_A.weight": (4, 32)}, "lora_B.weight is missing"),
        (SHAPES | {f"{NAME}.lora_A.default.weight": (4, 32)}, "no lora_A.weight"),
        (SHAPES | {"base_model.model.lm_head.weight": (99, 32)}, "lm_head.weight is no"),
        ({name.removeprefix("base_model."): shape for name, shape in SHAPES.items()}, "does not start"),
    ],
)
def test_names_that_do_not_parse_are_named(shapes: dict, said: str) -> None:
    assert any(said in one for one in find_violations(CONFIG, shapes))


def test_all_are_told_at_once() -> None:
    assert len(find_violations({"r": "4", "use_dora": True, "bias": "all"}, {"x": (1,)})) >= 5


def test_the_least_rank_to_start_vllm_with() -> None:
    assert [smallest_max_lora_rank(rank) for rank in (1, 4, 8, 48, 512, 513)] == [1, 8, 8, 64, 512, None]
