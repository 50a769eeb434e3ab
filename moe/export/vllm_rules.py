"""Rules of vLLM for LoRA adapters, checked on the written files: what it rejects, or interprets differently from PEFT.

The rules are those of vLLM 0.26 and of its main branch later in 2026 (`vllm/lora/peft_helper.py`, `lora_model.py`,
`utils.py`, `vllm/config/lora.py`). vLLM itself need not be installed. The head of a sequence classifier as a saved
module is served since September 2026; it must have as many labels as the served model.
"""

from collections.abc import Iterator, Mapping

from experts.json_io import Json

VLLM_VERSION = "vLLM 0.26"
MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Allowed values of `--max-lora-rank`; the rank of an adapter may be any up to it."""
REQUIRED_KEYS = ("r", "lora_alpha", "target_modules")
SUPPORTED_INITS = (True, False, None, "gaussian", "orthogonal")
HEADS = ("score", "classifier")
"""Saved modules of sequence classifiers that vLLM serves since September 2026 (vllm-project/vllm#53555)."""
KEY_PREFIX, LORA_SUFFIXES = "base_model.model.", (".lora_A.weight", ".lora_B.weight")

Shapes = Mapping[str, tuple[int, ...]]


def smallest_max_lora_rank(rank: int) -> int | None:
    """Return the smallest `--max-lora-rank` that allows a rank; None if there is none."""
    return next((allowed for allowed in MAX_LORA_RANKS if allowed >= rank), None)


def find_violations(config: Mapping[str, Json], shapes: Shapes) -> list[str]:
    """Return the rules that an adapter breaks as messages; empty if vLLM loads it and computes the same as PEFT.

    Args:
        config: content of its `adapter_config.json`.
        shapes: shapes of its tensors by name.
    """
    heads = {f"{KEY_PREFIX}{head}.{kind}" for head in _saved_heads(config) for kind in ("weight", "bias")}
    layers = {name: shape for name, shape in shapes.items() if name not in heads}
    missing = [
        f"{name} is missing" for head in _saved_heads(config) if (name := f"{KEY_PREFIX}{head}.weight") not in shapes
    ]
    return [*_config_violations(config), *missing, *_name_violations(layers), *_rank_violations(config, layers)]


def _saved_heads(config: Mapping[str, Json]) -> list[str]:
    """The saved modules of a sequence classifier that vLLM serves."""
    saved = config.get("modules_to_save")
    if config.get("task_type") != "SEQ_CLS" or not isinstance(saved, list):
        return []
    return [name for name in saved if isinstance(name, str) and name in HEADS]


def _config_violations(config: Mapping[str, Json]) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"peft_type is {config.get('peft_type')!r}: only LORA is supported"
    for name in REQUIRED_KEYS:
        if config.get(name) in (None, [], ""):
            yield f"{name} is missing"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        yield "bias is not supported"
    if config.get("use_dora"):
        yield "DoRA is not supported"
    if config.get("modules_to_save") not in (None, [], _saved_heads(config)):
        yield f"modules_to_save is not supported, but for the head of a classifier: {config['modules_to_save']}"
    if config.get("trainable_token_indices"):
        yield "trainable tokens are not supported, or only with a special option"
    for name in ("rank_pattern", "alpha_pattern"):
        if config.get(name):
            yield f"{name} is ignored: every layer gets the same scaling"
    if config.get("init_lora_weights") not in SUPPORTED_INITS:
        yield f"init_lora_weights={config['init_lora_weights']!r} changes base weights, which vLLM loads unchanged"


def _name_violations(shapes: Shapes) -> Iterator[str]:
    if not shapes:
        yield "no tensors"
    for name in shapes:
        if not name.endswith(LORA_SUFFIXES):
            yield f"{name} is no lora_A.weight or lora_B.weight of a layer"
        elif not name.startswith(KEY_PREFIX):
            yield f"{name} does not start with {KEY_PREFIX}"
    layers = {name.removesuffix(end) for name in shapes for end in LORA_SUFFIXES if name.endswith(end)}
    for layer in sorted(layers):
        for end in LORA_SUFFIXES:
            if layer + end not in shapes:
                yield f"{layer}{end} is missing"


def _rank_violations(config: Mapping[str, Json], shapes: Shapes) -> Iterator[str]:
    rank = config.get("r")
    if not isinstance(rank, int) or rank < 1:
        yield f"r is {rank!r}: it must be a positive integer"
        return
    if rank > MAX_LORA_RANKS[-1]:
        yield f"r is {rank}: --max-lora-rank is at most {MAX_LORA_RANKS[-1]}"
    for name, shape in shapes.items():
        tensor_rank = rank
        if name.endswith(LORA_SUFFIXES[0]):
            tensor_rank = shape[0]
        elif name.endswith(LORA_SUFFIXES[1]):
            tensor_rank = shape[-1]
        if tensor_rank != rank:
            yield f"{name} has rank {tensor_rank}, not {rank}: its scaling would differ"
