"""The trunk: the first layers of a backbone, which can be run alone or skipped in any model family."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.lora import find_layer_stack


class EndOfTrunk(Exception):
    """Raised at the end of the trunk to skip the remaining layers.

    A hook and an exception work in every model family, whose forward functions have no common way to stop early.
    """

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states  # (B, T, D)


class Trunk:
    """The first layers of a backbone, which hold no expert.

    Args:
        backbone: the model that owns the layers.
        depth: number of layers.
    """

    def __init__(self, backbone: PreTrainedModel, depth: int) -> None:
        layers = find_layer_stack(backbone)[1]
        self.layers, self.next = list(layers[:depth]), layers[depth]
        self._extra: int | None = None if depth else 0  # outputs of a layer besides its states; −1: not a tuple
        if depth:
            self.layers[-1].register_forward_hook(self._record_format)

    def _record_format(self, layer: nn.Module, args: Any, output: Any) -> None:
        if self._extra is None:
            self._extra = len(output) - 1 if isinstance(output, tuple) else -1

    @property
    def output_format_known(self) -> bool:
        """Whether a forward pass has shown how the layers return their states; until then none can be skipped."""
        return self._extra is not None

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Make these layers return their input unchanged."""
        assert self.output_format_known
        previous = [layer.__dict__.get("forward") for layer in self.layers]
        for layer in self.layers:
            layer.forward = self._identity
        try:
            yield
        finally:
            for layer, forward in zip(self.layers, previous, strict=True):
                del layer.forward
                if forward is not None:
                    layer.forward = forward

    def _identity(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        assert self._extra is not None
        return hidden_states if self._extra < 0 else (hidden_states, *[None] * self._extra)
