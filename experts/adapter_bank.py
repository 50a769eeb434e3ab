"""The LoRA adapters of one frozen backbone by name: adding, loading, training, gating and merging them."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.errors import Fault
from experts.folded_weights import DEFAULT_LIMIT, FoldedWeights
from experts.gated_linear import SHARED_INPUT_LAYERS, GatedLinear, Route, route_position_biases_per_text
from experts.lora import Adapter, LayerMap, LoraSpec, check_trunk_depth
from experts.lora_delta import LowRankUpdate, uniform_update

PREFIX = "base_model.model."


@dataclass(frozen=True)
class AttachedAdapter:
    """An adapter of a bank, and whether it is always on, or replaces routed experts on request."""

    adapter: Adapter
    always_on: bool
    replacement: bool = False

    @property
    def layers(self) -> dict[str, LoraSpec]:
        """Rank and scaling of every adapted layer, by dotted name."""
        return self.adapter.layers


class ExpertBank:
    """The adapters of one backbone, by name. The backbone's own weights are frozen.

    Args:
        backbone: a loaded transformers model; its linear layers are wrapped in place when an adapter needs them.
        trunk_depth: number of first layers without adapters.
        has_lm_head: save adapters for the model with its language-model head instead of the bare model.
        fold_limit: most bytes of folded weights; see `FoldedWeights`.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        trunk_depth: int = 0,
        has_lm_head: bool = False,
        fold_limit: int = DEFAULT_LIMIT,
    ) -> None:
        backbone.requires_grad_(False)
        self.layer_map = LayerMap.from_model(backbone)
        check_trunk_depth(self.layer_map, trunk_depth)
        self.backbone, self.trunk_depth, self.has_lm_head = backbone, trunk_depth, has_lm_head
        self.training = False
        self.route = Route()
        self.adapters: dict[str, AttachedAdapter] = {}
        self._gated: dict[str, GatedLinear] = {}
        self.folded = FoldedWeights(self._gated, fold_limit)
        self._model_prefix = f"{backbone.base_model_prefix}."
        route_position_biases_per_text(backbone, self.route)

    @property
    def routed_experts(self) -> tuple[str, ...]:
        """Names of the routed experts, in the order of the gates' columns."""
        return tuple(
            name for name, attached in self.adapters.items() if not (attached.always_on or attached.replacement)
        )

    @property
    def shared_experts(self) -> tuple[str, ...]:
        """Names of the experts that are always on, with weight 1 in addition to the gates."""
        return tuple(name for name, attached in self.adapters.items() if attached.always_on)

    def add_adapter(self, name: str, adapter: Adapter, always_on: bool = False, replacement: bool = False) -> None:
        """Add newly initialized weights for an adapter to all its layers.

        Args:
            always_on: a shared expert, computed with weight 1 in every pass.
            replacement: computed only in passes that name it as their replacement.

        Raises:
            Fault: if it names a layer that this backbone does not have, or one inside the trunk.
        """
        assert name not in self.adapters, name
        self._check_layers(name, adapter)
        for path, spec in adapter.layers.items():
            self._wrap(path).add_adapter(name, spec)
        self.adapters[name] = AttachedAdapter(adapter, always_on, replacement)

    def _check_layers(self, name: str, adapter: Adapter) -> None:
        missing = [path for path in adapter.layers if path not in self.layer_map.linear_layers]
        if missing or not adapter.layers:
            raise Fault(
                f"linear layers of {type(self.backbone).__name__} as targets of expert {name}",
                missing[0] if missing else f"none that match {adapter.peft_config.get('target_modules')}",
                "use an adapter trained on this backbone",
            )
        if in_trunk := [path for path in adapter.layers if self.layer_map.layer_index(path) < self.trunk_depth]:
            raise Fault(
                f"no adapter of expert {name} in the first {self.trunk_depth} layers (the trunk)",
                f"an adapter on {in_trunk[0]}",
                "set trunk_depth to 0, or train the expert with this trunk depth",
            )

    def _wrap(self, path: str) -> GatedLinear:
        if path not in self._gated:
            parent_path, _, name = path.rpartition(".")
            parent = self.backbone.get_submodule(parent_path)
            self._gated[path] = GatedLinear(getattr(parent, name), self.route)
            self._gated[path].train(self.training)
            setattr(parent, name, self._gated[path])
            self._group_same_input_layers(parent)
        return self._gated[path]

    def _group_same_input_layers(self, parent: nn.Module) -> None:
        for names in SHARED_INPUT_LAYERS:
            children = [getattr(parent, name, None) for name in names]
            layers = [child for child in children if isinstance(child, GatedLinear)]
            if len(layers) > 1:
                self.route.same_input_layers[layers[0]] = layers[1:]

    def set_gates(
        self,
        gates: Tensor | None,
        only: tuple[str, ...] = (),
        disabled: Collection[str] = (),
        replacement: str | None = None,
    ) -> None:
        """Set the gates for the following passes.

        Args:
            gates: (B, E), or (B, T, E) for gates per token, with columns as `routed_experts`; None uses only the shared
                experts.
            only: names of the routed experts to compute, if all others have a gate of 0; a single one has a gate of 1.
            disabled: names of shared experts that are left out.
            replacement: name of the adapter that is computed in place of the routed experts.
        """
        device = self.backbone.device
        gates = torch.zeros(1, len(self.routed_experts), device=device) if gates is None else gates  # (B, E)
        always_on = (*self.shared_experts, *((replacement,) if replacement else ()))
        always = gates.new_ones(*gates.shape[:-1], len(always_on))  # (B, S)
        columns = {name: i for i, name in enumerate((*self.routed_experts, *always_on))}
        shared = tuple(name for name in always_on if name not in disabled)
        routed = only or tuple(self.routed_experts[i] for i in self._nonzero_columns(gates))
        active = (*(() if replacement else routed), *shared)
        merged = active if self.folded.is_in_use(active) and (len(only) == 1 or not routed) else None
        self.route.set(torch.cat([gates, always], -1), columns, active, self._gated.values(), merged)

    @property
    def on_cpu(self) -> bool:
        """Whether the backbone is on the CPU."""
        return self.backbone.device.type == "cpu"

    def _nonzero_columns(self, gates: Tensor) -> list[int]:
        """Return the columns with a nonzero gate, or all columns where reading the gates is not possible.

        Reading the gates would synchronize a GPU with the host, and a traced graph must be valid for other texts too.
        """
        if gates.requires_grad or self.training or not self.on_cpu or torch.compiler.is_compiling():
            return list(range(gates.shape[-1]))
        return gates.flatten(0, -2).ne(0).any(0).nonzero().flatten().tolist()

    def set_adapter(self, name: str, disabled: Collection[str] = ()) -> None:
        """Use one expert, with the shared ones that are not disabled, for every text: the constant route."""
        if name in self.shared_experts:
            return self.set_gates(None, disabled=disabled)
        gates = torch.zeros(1, len(self.routed_experts), device=self.backbone.device)  # (1, E)
        gates[0, self.routed_experts.index(name)] = 1.0
        return self.set_gates(gates, only=(name,), disabled=disabled)

    def train(self, mode: bool = True) -> None:
        """Enable or disable the adapters' dropout. The dropout of the frozen backbone always stays disabled."""
        self.training = mode
        if mode:
            self.folded.clear()  # training will change the adapters
        for layer in self._gated.values():
            layer.train(mode)

    @contextmanager
    def merged_adapter(self, name: str) -> Iterator[None]:
        """Let passes whose constant route is this expert use weights with it and the shared ones folded in.

        All other passes are unaffected. Folded weights are kept for later, up to the memory limit. Quantized layers are
        not folded, since rounding would remove the update.
        """
        with self.folded.use(self.constant_route(name)):
            yield

    def constant_route(self, name: str) -> tuple[str, ...]:
        """Return the adapters that are active if one expert has all the weight: itself and the shared ones."""
        return (*(() if name in self.shared_experts else (name,)), *self.shared_experts)

    @contextmanager
    def replacement_adapter(self, update: LowRankUpdate, name: str = "replacement") -> Iterator[str]:
        """Attach an update inside the context that a pass may use in place of the routed experts; yield its name."""
        specs = {path: LoraSpec(update.rank, update.scaling) for path in update.layers}
        self.add_adapter(name, Adapter({}, specs), replacement=True)
        try:
            with torch.no_grad():
                for path, (a, b) in update.layers.items():
                    self._gated[path].lora_A[name].copy_(a)
                    self._gated[path].lora_B[name].copy_(b)
            yield name
        finally:
            del self.adapters[name]
            for path in specs:
                self._gated[path].delete_adapter(name)

    def low_rank_update(self, name: str) -> LowRankUpdate:
        """Return an expert's own update on the CPU, at one rank and without the shared experts' updates."""
        layers = {}
        for path, spec in self.adapters[name].layers.items():
            a, b = self._gated[path].lora_A[name], self._gated[path].lora_B[name]
            layers[path] = a.detach().cpu(), b.detach().cpu(), spec.scaling
        return uniform_update(layers)

    @property
    def base_layers(self) -> dict[str, nn.Module]:
        """The frozen linear layers that have adapters, by dotted name."""
        return {path: layer.base for path, layer in self._gated.items()}

    def merge_and_unload(self, names: Collection[str]) -> None:
        """Merge some adapters, each with weight 1, into the backbone's weights and remove all gated layers.

        The bank cannot be used afterwards.
        """
        active = tuple(names)
        for path, layer in self._gated.items():
            layer.unmerge(active)  # a copy of earlier weights
            layer.merge(active)
            parent, _, name = path.rpartition(".")
            setattr(self.backbone.get_submodule(parent), name, layer.unload(active))

    def set_dropout(self, p: float) -> None:
        """Set the dropout probability of the adapters' input; a layer uses one mask for all its adapters."""
        for layer in self._gated.values():
            layer.dropout = p

    @property
    def gated_layers(self) -> tuple[GatedLinear, ...]:
        """The linear layers that have adapters."""
        return tuple(self._gated.values())

    def adapter_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return an expert's parameters under PEFT's keys: `base_model.model.<layer>.lora_A.weight`."""
        parameters = {}
        for path in self.adapters[name].layers:
            layer = self._gated[path]
            parameters[f"{PREFIX}{path}.lora_A.weight"] = layer.lora_A[name]
            parameters[f"{PREFIX}{path}.lora_B.weight"] = layer.lora_B[name]
        return parameters

    @property
    def key_prefix(self) -> str:
        """What precedes a layer's name in the keys of `peft_state_dict`."""
        return PREFIX + (self._model_prefix if self.has_lm_head else "")

    def peft_state_dict(self, name: str) -> dict[str, nn.Parameter]:
        """Return an expert's parameters under the keys that PEFT expects for the saved model, with or without head."""
        parameters = self.adapter_parameters(name)
        return {self.key_prefix + key.removeprefix(PREFIX): parameter for key, parameter in parameters.items()}

    @staticmethod
    def layer_path(key: str) -> str:
        """Return the dotted name of the linear layer that a key of `adapter_parameters` belongs to."""
        return key.removeprefix(PREFIX).rpartition(".lora_")[0]

    def freeze(self) -> None:
        """Make all experts untrainable."""
        self.train_only()

    def train_only(self, *names: str) -> None:
        """Make these experts trainable and all others untrainable; this does not change the gates."""
        for name in self.adapters:
            for parameter in self.adapter_parameters(name).values():
                parameter.requires_grad_(name in names)

    def unused_experts(self, gates: Tensor) -> tuple[str, ...]:
        """Return the routed experts whose gates (B, E), or (B, T, E), are 0 in every text."""
        totals = gates.detach().flatten(0, -2).sum(0)  # (E,)
        return tuple(name for name, total in zip(self.routed_experts, totals, strict=True) if total == 0)

    def load_adapter(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Copy weights into an adapter of the bank; all keys and shapes must match.

        Raises:
            Fault: if a tensor is missing, unexpected or of another shape.
        """
        parameters = self.adapter_parameters(name)
        given = {self.bare_key(key, parameters): tensor for key, tensor in weights.items()}
        missing, extra = sorted(parameters.keys() - given.keys()), sorted(given.keys() - parameters.keys())
        shapes = [key for key in parameters.keys() & given.keys() if parameters[key].shape != given[key].shape]
        if faults := [*missing, *extra, *shapes]:
            raise Fault(
                f"weights that fit expert {name} ({len(parameters)} tensors)",
                f"{len(missing)} missing, {len(extra)} unexpected, {len(shapes)} of another shape, e.g. {faults[0]}",
                "use an adapter trained on this backbone and these layers",
            )
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(given[key])

    def bare_key(self, key: str, known: Mapping[str, object]) -> str:
        """Return a key of saved weights as a key of `adapter_parameters`.

        Keys of an adapter trained on the model with a head contain the backbone's prefix, which is removed.

        Args:
            known: keys of `adapter_parameters`.
        """
        bare = PREFIX + key.removeprefix(PREFIX).removeprefix(self._model_prefix)
        return bare if key not in known and bare in known else key
