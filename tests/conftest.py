"""Shared fixtures: one tiny random backbone of every supported family, and a word-level tokenizer."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

_COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = _COMMON | {"num_key_value_heads": 1, "head_dim": 16}

FAMILIES: dict[str, dict[str, object]] = {
    "bert": _COMMON,
    "roberta": _COMMON,
    "deberta-v2": _COMMON
    | {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "modernbert": _COMMON | {"cls_token_id": 1, "sep_token_id": 2},
    "mpnet": _COMMON,
    "llama": _GROUPED,
    "qwen3": _GROUPED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2},
    "gpt_neox": _COMMON,
    "opt": _COMMON | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "glm4": _GROUPED,
}


def tiny_backbone(family: str = "bert", seed: int = 0) -> PreTrainedModel:
    """A random two-layer, width-32 backbone of one family, in evaluation mode."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, vocab_size=99, **FAMILIES[family])
    return AutoModel.from_config(config).eval()


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each supported family in turn."""
    return request.param
