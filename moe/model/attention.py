"""Which of a backbone's own attention codes runs in training: on a CPU the fused one's way back is slow on short texts.

What it is in answering is transformers' choice, and stays it.
"""

import torch
from transformers import PreTrainedModel

SHORT = {torch.bfloat16: 128, torch.float32: 64}
"""The longest row of tokens, by precision, on which plain products train faster on a CPU than the fused kernel."""


class Attention:
    """Sets a backbone's attention from batch to batch; does nothing where it has but one, or on other devices.

    Args:
        model: whose layers may have LoRA beside them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.own = model, model.config._attn_implementation
        choice = self.own == "sdpa" and model.device.type == "cpu" and model._can_set_attn_implementation()
        self.short = SHORT.get(model.dtype, 0) if choice else 0

    def suit(self, tokens: int) -> None:
        """Take the code that trains faster on rows of so many tokens."""
        self._set("eager" if tokens <= self.short else self.own)

    def restore(self) -> None:
        """Take the backbone's own again."""
        self._set(self.own)

    def _set(self, name: str) -> None:
        if self.model.config._attn_implementation != name:
            self.model.set_attn_implementation(name)
