"""Copies of the frozen weights with constant adapters folded in, kept between passes up to a memory limit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Final

from experts.gated_linear import GatedLinear

DEFAULT_LIMIT: Final = 512 * 2**20
Adapters = tuple[str, ...]


class FoldedWeights:
    """Keeps `W + Σ_e s_e B_e A_e` of every layer, for each set of adapters that passes used as a constant route.

    Passes with folded weights cost what the bare backbone costs. The least recently used copies are deleted first, and
    copies of adapters that have changed since are made again.

    Args:
        layers: the layers with adapters, by name; more may be added.
        limit: most bytes of all copies together. Adapters whose copy alone is larger are not folded.
    """

    def __init__(self, layers: Mapping[str, GatedLinear], limit: int = DEFAULT_LIMIT) -> None:
        self.layers, self.limit = layers, limit
        self._sizes: dict[Adapters, int] = {}
        """Bytes of each copy, the least recently used first."""
        self._versions: dict[Adapters, tuple[object, ...]] = {}
        self._in_use: list[Adapters] = []
        self._lock = RLock()

    @property
    def kept(self) -> tuple[Adapters, ...]:
        """The sets of adapters that have a copy, the least recently used first."""
        return tuple(self._sizes)

    def is_in_use(self, adapters: Adapters) -> bool:
        """Whether a `use` of these adapters is in progress."""
        return adapters in self._in_use

    def has_room(self, adapters: Adapters) -> bool:
        """Whether a copy of these adapters would be kept: some layer can be folded, and the limit is not exceeded."""
        return 0 < self._size(adapters) <= self.limit

    def is_current(self, adapters: Adapters) -> bool:
        """Whether there is a copy of these adapters, and they have not changed since."""
        return adapters in self._sizes and self._versions[adapters] == self._version(adapters)

    @contextmanager
    def use(self, adapters: Adapters) -> Iterator[None]:
        """Let passes whose constant route is these adapters use a copy of the weights, inside the context.

        Without room for the copy, and in quantized layers, they compute the adapters beside the weights as before.

        Args:
            adapters: names, in the order of the route.
        """
        with self._lock:
            self._fold(adapters)
            self._in_use.append(adapters)
        try:
            yield
        finally:
            with self._lock:
                self._in_use.remove(adapters)

    def clear(self) -> None:
        """Delete all copies that are not in use."""
        with self._lock:
            for adapters in self.kept:
                if adapters not in self._in_use:
                    self._delete(adapters)

    def _fold(self, adapters: Adapters) -> None:
        if self.is_current(adapters):
            self._sizes[adapters] = self._sizes.pop(adapters)  # now the most recently used
            return
        if adapters in self._in_use:
            return
        self._delete(adapters)
        size = self._size(adapters)
        if not size or not self._make_room(size):
            return
        try:
            for layer in self._foldable(adapters):
                layer.merge(adapters)
        except BaseException:
            self._delete(adapters)
            raise
        self._sizes[adapters], self._versions[adapters] = size, self._version(adapters)

    def _make_room(self, size: int) -> bool:
        """Delete copies until there is room for `size` more bytes; return whether there is."""
        for adapters in self.kept:
            if sum(self._sizes.values()) + size <= self.limit:
                break
            if adapters not in self._in_use and size <= self.limit:
                self._delete(adapters)
        return sum(self._sizes.values()) + size <= self.limit

    def _delete(self, adapters: Adapters) -> None:
        self._sizes.pop(adapters, None)
        self._versions.pop(adapters, None)
        for layer in self.layers.values():
            layer.unmerge(adapters)

    def _foldable(self, adapters: Adapters) -> list[GatedLinear]:
        return [layer for layer in self.layers.values() if layer.can_merge and layer.has_any(adapters)]

    def _size(self, adapters: Adapters) -> int:
        return sum(layer.weight.nbytes for layer in self._foldable(adapters))

    def _version(self, adapters: Adapters) -> tuple[object, ...]:
        """Return what changes with the weights of adapters, or with the device and precision of the layers."""
        return tuple(
            (parameter.data_ptr(), parameter._version, layer.weight.data_ptr())
            for layer in self.layers.values()
            for name in adapters
            if name in layer.lora_specs
            for parameter in (layer.lora_A[name], layer.lora_B[name])
        )
