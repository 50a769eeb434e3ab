"""N LoRA adapters beside one frozen backbone: attach, freeze, load and train by name.

It is handed gates as one tensor and does not know who made them; what a layer computes is `experts.gated_linear`'s,
files are `experts.expert_io`'s.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.errors import Fault
from experts.gated_linear import SHARED_INPUT_LAYERS, GatedLinear, Route, route_position_biases_per_text
from experts.lora import Adapter, LayerMap, LoraSpec, check_trunk_depth
from experts.lora_delta import LowRankUpdate, uniform_update

PREFIX = "base_model.model."


@dataclass(frozen=True)
class AttachedAdapter:
    """One adapter of a bank, and whether it is always on."""

    adapter: Adapter
    always_on: bool

    @property
    def layers(self) -> dict[str, LoraSpec]:
        """The layers it touches."""
        return self.adapter.layers


class ExpertBank:
    """The adapters of one backbone, by name. The backbone's own weights are frozen for good.

    Args:
        backbone: a loaded transformers model; its linear layers are wrapped in place as adapters arrive.
        trunk_depth: how many first layers stay free of experts.
        headed: adapters are written for the model with its own language-model head, not for the bare one.
    """

    def __init__(self, backbone: PreTrainedModel, trunk_depth: int = 0, headed: bool = False) -> None:
        backbone.requires_grad_(False)
        self.layers = LayerMap.from_model(backbone)
        check_trunk_depth(self.layers, trunk_depth)
        self.backbone, self.trunk_depth, self.headed = backbone, trunk_depth, headed
        self.training = False
        self.muted: tuple[str, ...] = ()
        """Shared experts that are not asked now."""
        self.replacing = False
        """Whether one update answers now instead of the routed experts."""
        self.route_state = Route()
        self.attached: dict[str, AttachedAdapter] = {}
        self._gated: dict[str, GatedLinear] = {}
        self._prefix = f"{backbone.base_model_prefix}."
        route_position_biases_per_text(backbone, self.route_state)

    @property
    def names(self) -> tuple[str, ...]:
        """The routed experts, in the order of the gates' columns."""
        return tuple(name for name, one in self.attached.items() if not one.always_on)

    @property
    def shared(self) -> tuple[str, ...]:
        """The experts that are always on, outside the gates' sum."""
        return tuple(name for name, one in self.attached.items() if one.always_on)

    def attach(self, name: str, adapter: Adapter, always_on: bool = False) -> None:
        """Lay fresh weights beside every layer that the adapter touches.

        Raises:
            Fault: when it names no layer of this backbone, or one inside the trunk.
        """
        assert name not in self.attached, name
        self._check(name, adapter)
        for path, touch in adapter.layers.items():
            self._wrap(path).add(name, touch)
        self.attached[name] = AttachedAdapter(adapter, always_on)

    def _check(self, name: str, adapter: Adapter) -> None:
        missing = [path for path in adapter.layers if path not in self.layers.linear]
        if missing or not adapter.layers:
            raise Fault(
                f"expert {name} to touch linear layers of {type(self.backbone).__name__}",
                missing[0] if missing else f"none that match {adapter.peft_config.get('target_modules')}",
                "use an adapter trained on this backbone",
            )
        if low := [path for path in adapter.layers if self.layers.index(path) < self.trunk_depth]:
            raise Fault(
                f"expert {name} to leave the first {self.trunk_depth} layers (the trunk) alone",
                f"an adapter on {low[0]}",
                "set trunk_depth to 0, or train the expert after this trunk",
            )

    def _wrap(self, path: str) -> GatedLinear:
        if path not in self._gated:
            parent, _, child = path.rpartition(".")
            owner = self.backbone.get_submodule(parent)
            self._gated[path] = GatedLinear(getattr(owner, child), self.route_state)
            self._gated[path].train(self.training)
            setattr(owner, child, self._gated[path])
            self._join_readers(owner)
        return self._gated[path]

    def _join_readers(self, owner: nn.Module) -> None:
        for names in SHARED_INPUT_LAYERS:
            found = [getattr(owner, name, None) for name in names]
            layers = [one for one in found if isinstance(one, GatedLinear)]
            if len(layers) > 1:
                self.route_state.readers[layers[0]] = layers[1:]

    def route(self, gates: Tensor | None, only: str | None = None) -> None:
        """Blend by these gates from now on.

        Args:
            gates: (B, E), or (B, T, E) for gates per token, columns as `names`; None leaves only the shared experts.
            only: says that all weight is on this expert, so that the others need not be computed.
        """
        device = self.backbone.device
        gates = torch.zeros(1, len(self.names), device=device) if gates is None else gates  # (B, E)
        always = gates.new_ones(*gates.shape[:-1], len(self.shared))  # (B, S)
        for name in self.muted:
            always[..., self.shared.index(name)] = 0.0
        shared = tuple(name for name in self.shared if name not in self.muted)
        columns = {name: i for i, name in enumerate((*self.names, *self.shared))}
        routed = (only,) if only else tuple(self.names[i] for i in self._used(gates))
        active = () if self.replacing else routed
        self.route_state.set(torch.cat([gates, always], -1), columns, (*active, *shared), self._gated.values())

    @property
    def on_host(self) -> bool:
        """Whether tensors lie in the host's own memory."""
        return self.backbone.device.type == "cpu"

    def _used(self, gates: Tensor) -> list[int]:
        """Experts with any weight.

        To look at the gates makes a GPU's host wait, and what is traced holds for other texts too: there it is all.
        """
        if gates.requires_grad or self.training or not self.on_host or torch.compiler.is_compiling():
            return list(range(gates.shape[-1]))
        return gates.flatten(0, -2).ne(0).any(0).nonzero().flatten().tolist()

    def constant(self, name: str) -> None:
        """The constant route: this expert alone (with the shared ones), for every text."""
        if name in self.shared:
            return self.route(None)
        gates = torch.zeros(1, len(self.names), device=self.backbone.device)  # (1, E)
        gates[0, self.names.index(name)] = 1.0
        return self.route(gates, only=name)

    def train(self, mode: bool = True) -> None:
        """Let the experts' dropout act, or not. The frozen backbone's own never does: nothing in it is fitted."""
        self.training = mode
        for layer in self._gated.values():
            layer.train(mode)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """The constant route of one expert, for inference: folded into a copy of the weights while it lasts.

        Quantised weights stay as they are, with the expert beside them: to fold would round its update away.
        """
        self.constant(name)
        layers = [layer for layer in self._gated.values() if layer.here and layer.foldable]
        try:
            for layer in layers:
                layer.fold()
            yield
        finally:
            for layer in layers:
                layer.unfold()

    @contextmanager
    def replaced(self, update: LowRankUpdate, name: str = "instead") -> Iterator[None]:
        """One update answers while it lasts, whatever the gates give the routed experts; shared ones stay asked."""
        touches = {path: LoraSpec(update.rank, update.scaling) for path in update.layers}
        self.attach(name, Adapter({}, touches), always_on=True)
        try:
            with torch.no_grad():
                for path, (a, b) in update.layers.items():
                    self._gated[path].lora_A[name].copy_(a)
                    self._gated[path].lora_B[name].copy_(b)
            self.replacing = True
            yield
        finally:
            self.replacing = False
            del self.attached[name]
            for path in touches:
                self._gated[path].delete_adapter(name)

    def update_of(self, name: str) -> LowRankUpdate:
        """One expert's own update, at one rank and on the host; the shared experts' are theirs."""
        found = {}
        for path, touch in self.attached[name].layers.items():
            a, b = self._gated[path].lora_A[name], self._gated[path].lora_B[name]
            found[path] = a.detach().cpu(), b.detach().cpu(), touch.scaling
        return uniform_update(found)

    @property
    def bases(self) -> dict[str, nn.Module]:
        """The frozen layers that have experts beside them, by dotted name."""
        return {path: layer.base for path, layer in self._gated.items()}

    def fold_for_good(self) -> None:
        """Take the experts away and leave what is active now in the weights themselves.

        The bank is of no use afterwards; each layer is as transformers made it, with other weights.
        """
        for path, layer in self._gated.items():
            if layer.here:
                layer.fold()
            parent, _, child = path.rpartition(".")
            setattr(self.backbone.get_submodule(parent), child, layer.bared())

    def set_dropout(self, share: float) -> None:
        """Drop this share of the experts' inputs in training, one mask for all experts of a layer."""
        for layer in self._gated.values():
            layer.dropout = share

    @property
    def gated(self) -> tuple[GatedLinear, ...]:
        """The layers that have experts beside them."""
        return tuple(self._gated.values())

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        """One expert's parameters under PEFT's keys: `base_model.model.<layer>.lora_A.weight`."""
        found = {}
        for path in self.attached[name].layers:
            found[f"{PREFIX}{path}.lora_A.weight"] = self._gated[path].lora_A[name]
            found[f"{PREFIX}{path}.lora_B.weight"] = self._gated[path].lora_B[name]
        return found

    @property
    def prefix(self) -> str:
        """What stands before a layer's name in the keys that PEFT looks for beside the model."""
        return PREFIX + (self._prefix if self.headed else "")

    def saved(self, name: str) -> dict[str, nn.Parameter]:
        """One expert's parameters under the keys that PEFT looks for when it loads them beside the model."""
        return {self.prefix + key.removeprefix(PREFIX): one for key, one in self.parameters_of(name).items()}

    @staticmethod
    def path_of(key: str) -> str:
        """The linear layer that a key of `parameters_of` belongs to."""
        return key.removeprefix(PREFIX).rpartition(".lora_")[0]

    def freeze(self) -> None:
        """No expert learns."""
        self.train_only()

    def train_only(self, *names: str) -> None:
        """The named experts learn, the others do not. Which are active is told by the gates alone."""
        for name in self.attached:
            for parameter in self.parameters_of(name).values():
                parameter.requires_grad_(name in names)

    def unused(self) -> tuple[str, ...]:
        """The routed experts that got no weight from any text of the last pass."""
        gates = self.route_state.gates
        if gates is None:
            return self.names
        shares = gates.detach().flatten(0, -2).sum(0)  # (E + S,)
        return tuple(name for name in self.names if shares[self.route_state.columns[name]] == 0)

    def load(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Fill one attached expert, strictly.

        Raises:
            Fault: when a tensor is missing, unexpected or of another shape.
        """
        mine = self.parameters_of(name)
        given = {self._own_key(key, mine): value for key, value in weights.items()}
        missing, extra = sorted(mine.keys() - given.keys()), sorted(given.keys() - mine.keys())
        shapes = [k for k in mine.keys() & given.keys() if mine[k].shape != given[k].shape]
        if faults := [*missing, *extra, *shapes]:
            raise Fault(
                f"weights that fit expert {name} ({len(mine)} tensors)",
                f"{len(missing)} missing, {len(extra)} unexpected, {len(shapes)} of another shape, e.g. {faults[0]}",
                "use an adapter trained on this backbone and these layers",
            )
        with torch.no_grad():
            for key, parameter in mine.items():
                parameter.copy_(given[key])

    def _own_key(self, key: str, mine: Mapping[str, object]) -> str:
        """An adapter trained on the model with a head has the backbone's prefix in its keys."""
        bare = PREFIX + key.removeprefix(PREFIX).removeprefix(self._prefix)
        return bare if key not in mine and bare in mine else key
