"""A backbone run up to a layer, or from it on, with the model's own code in every family.

Who asks for it, and what is routed by the states there, is `moe.model.mixture`'s.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.lora import find_layer_stack


class EndOfTrunk(Exception):
    """Raised where the trunk ends, to leave the backbone there: no layer after it is wanted."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states  # (B, T, D)


class Trunk:
    """The first layers of a backbone, which hold no expert.

    Args:
        backbone: whose layers they are.
        depth: how many.
    """

    def __init__(self, backbone: PreTrainedModel, depth: int) -> None:
        layers = find_layer_stack(backbone)[1]
        self.layers, self.next = list(layers[:depth]), layers[depth]
        self._extra: int | None = None if depth else 0  # what a layer returns beside its states; -1: no tuple at all
        if depth:
            self.layers[-1].register_forward_hook(self._look)

    def _look(self, layer: nn.Module, args: Any, output: Any) -> None:
        if self._extra is None:
            self._extra = len(output) - 1 if isinstance(output, tuple) else -1

    @property
    def known(self) -> bool:
        """Whether a pass has shown in what form its layers return their states; without one, none can be skipped."""
        return self._extra is not None

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Let the backbone's own forward run past these layers without any work."""
        assert self.known
        kept = [layer.__dict__.get("forward") for layer in self.layers]
        for layer in self.layers:
            layer.forward = self._pass_on
        try:
            yield
        finally:
            for layer, forward in zip(self.layers, kept, strict=True):
                del layer.forward
                if forward is not None:
                    layer.forward = forward

    def _pass_on(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        assert self._extra is not None
        return hidden_states if self._extra < 0 else (hidden_states, *[None] * self._extra)
