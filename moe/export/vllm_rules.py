"""What vLLM refuses, or reads otherwise than PEFT, in an adapter: held against the files as they are written.

The rules are those of vLLM 0.26 and of its main branch later in 2026 (`vllm/lora/peft_helper.py`, `lora_model.py`,
`utils.py`, `vllm/config/lora.py`). vLLM itself is not asked: it needs no place on the machine that exports.
"""

from collections.abc import Iterator, Mapping
from typing import Any

VLLM_VERSION = "vLLM 0.26"
MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be; an adapter's own rank is any up to it."""
REQUIRED_KEYS = ("r", "lora_alpha", "target_modules")
SUPPORTED_INITS = (True, False, None, "gaussian", "orthogonal")
KEY_PREFIX, LORA_SUFFIXES = "base_model.model.", (".lora_A.weight", ".lora_B.weight")

Shapes = Mapping[str, tuple[int, ...]]


def smallest_max_lora_rank(rank: int) -> int | None:
    """The smallest `--max-lora-rank` that admits a rank; None where none does."""
    return next((one for one in MAX_LORA_RANKS if one >= rank), None)


def find_violations(config: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """Every rule that an adapter breaks, in sentences; none where vLLM loads it and computes what PEFT computes.

    Args:
        config: its `adapter_config.json`.
        shapes: of its tensors, by name.
    """
    return [*_of_config(config), *_of_names(shapes), *_of_ranks(config, shapes)]


def _of_config(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"peft_type is {config.get('peft_type')!r}: only LORA is read"
    for name in REQUIRED_KEYS:
        if config.get(name) in (None, [], ""):
            yield f"{name} is missing"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        yield "a bias is not supported"
    if config.get("use_dora"):
        yield "DoRA is not supported"
    if config.get("modules_to_save"):
        yield f"modules_to_save is not supported: {config['modules_to_save']}"
    if config.get("trainable_token_indices"):
        yield "trainable tokens are not supported, or only by a setting of their own"
    for name in ("rank_pattern", "alpha_pattern"):
        if config.get(name):
            yield f"{name} is not read: every layer is scaled alike"
    if config.get("init_lora_weights") not in SUPPORTED_INITS:
        yield f"init_lora_weights={config['init_lora_weights']!r} changes the weights that vLLM loads unchanged"


def _of_names(shapes: Shapes) -> Iterator[str]:
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


def _of_ranks(config: Mapping[str, Any], shapes: Shapes) -> Iterator[str]:
    rank = config.get("r")
    if not isinstance(rank, int) or rank < 1:
        yield f"r is {rank!r}: a whole number from 1 is needed"
        return
    if rank > MAX_LORA_RANKS[-1]:
        yield f"r is {rank}: --max-lora-rank ends at {MAX_LORA_RANKS[-1]}"
    for name, shape in shapes.items():
        own = shape[0] if name.endswith(LORA_SUFFIXES[0]) else shape[-1] if name.endswith(LORA_SUFFIXES[1]) else rank
        if own != rank:
            yield f"{name} has rank {own}, not {rank}: its scaling would be another"
