"""The mixture model: trunk → gates → gated layers → heads, in a single forward pass of the backbone.

Training one expert uses the same model with a constant route.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from experts.adapter_bank import ExpertBank
from experts.domain import Domain, LabelSpace
from moe.model.backbone import Backbone
from moe.model.backbone_ops import BackboneDropout, backbone_states
from moe.model.heads import Heads, MixedHeads, NoHeads, pool
from moe.model.mode import SOFT, Routing, RoutingMode
from moe.model.outputs import ForwardContext, MixtureOutput, RouterOutput
from moe.model.routing import build_domain_expert_mask, mix_gates
from moe.model.trunk import EndOfTrunk, Trunk
from router.gate import Gate
from router.prior import mute_gates


class Mixture(nn.Module):
    """N experts on one frozen backbone, mixed by the router or fixed to one of them.

    How a pass routes is an argument of the pass, so threads with different modes may share a model; their passes run
    one after another.

    Args:
        backbone: loaded and frozen.
        bank: its experts.
        gate: the router; None for a constant route.
        heads: class and polarity heads; `NoHeads` if the backbone's own language-model head is used.
        domains: the domains, whose experts are the columns of the gates.
        labels: label space, which maps each task to its head.
        pooling: `mean` or `last`.
        mode: how a pass without a mode of its own routes: softly, or by the only expert.
        trained_domains: domains that the model was trained on; all by default.
        routing: what routing `auto` is.
    """

    special_token_ids: Tensor
    domain_expert_mask: Tensor

    def __init__(
        self,
        backbone: Backbone,
        bank: ExpertBank,
        gate: Gate | None,
        heads: Heads | MixedHeads | NoHeads,
        domains: Sequence[Domain],
        labels: LabelSpace,
        pooling: str,
        mode: RoutingMode = SOFT,
        trained_domains: Sequence[Domain] | None = None,
        routing: Routing = "soft",
    ) -> None:
        super().__init__()
        self.backbone, self.gate, self.heads = backbone.model, gate, heads
        self.bank, self.domains, self.labels, self.pooling = bank, tuple(domains), labels, pooling
        self.loaded_backbone, self.mode, self.routing = backbone, mode, routing
        self.trained_domains = self.domains if trained_domains is None else tuple(trained_domains)
        special, mask = (
            torch.tensor(backbone.tokenizer.all_special_ids),
            build_domain_expert_mask(bank.routed_experts, domains),
        )
        self.register_buffer("special_token_ids", special, persistent=False)
        self.register_buffer("domain_expert_mask", mask, persistent=False)
        self._context: ForwardContext | None = None
        self._lock = RLock()
        self.trunk = Trunk(self.backbone, bank.trunk_depth)
        self.trunk.next.register_forward_pre_hook(self._on_trunk_end, with_kwargs=True)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        allowed: Tensor | None = None,
        mode: RoutingMode | None = None,
        trunk: Tensor | None = None,
        position_ids: Tensor | None = None,
        router_mask: Tensor | None = None,
        routing: RouterOutput | None = None,
        **_: Any,
    ) -> MixtureOutput:
        """Run the model on token ids (B, T).

        Args:
            attention_mask: (B, T), 0 at padding; or, for several documents a row, (B, 1, T, T) bool, or None if
                restarting position ids mark the documents of a decoder.
            allowed: (B, E) bool, restricts each text's gates to these experts.
            mode: how the texts are routed; by default the model's own mode.
            trunk: (B, T, D), output of `encode_trunk` for these ids; the trunk's layers are then skipped.
            position_ids: (B, T), if they do not count from 0 in every row.
            router_mask: (B, T) bool, tokens that the router may read: those of a prompt but not of its answer; all by
                default.
            routing: router output of `encode_trunk` for these texts; the router then does not run.
        """
        mode = mode or self.mode
        flat = attention_mask is not None and attention_mask.dim() == 2
        real = attention_mask if attention_mask is not None and flat else torch.ones_like(input_ids)  # (B, T)
        content = self.content_mask(input_ids, real if router_mask is None else real * router_mask)  # (B, T)
        router_only = self.training and mode.detach_gates and not any(p.requires_grad for p in self.heads.parameters())
        # If only the router is trained, the later layers give it no gradient.
        context = ForwardContext(content, allowed, mode, trunk, stop=router_only, known=routing)
        states, gates = self._run(context, input_ids, attention_mask, position_ids)
        routing = context.routing
        if isinstance(self.heads, NoHeads) or router_only:
            return MixtureOutput(states, {}, None, routing, gates)
        pooled = pool(states, real, self.pooling)  # (B, D)
        if self.training and not pooled.requires_grad:
            pooled.requires_grad_()  # DAO measures gradients there even when everything below is frozen
        # The shared expert has no heads of its own here: those of the experts read its states of an unfamiliar text.
        head_gates = gates if routing is None or routing.unfamiliar is None else routing.gates
        out = self.heads(pooled, head_gates)
        return MixtureOutput(pooled, out.logits, out.polarity, routing, gates)

    def encode_trunk(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        allowed: Tensor | None = None,
        mode: RoutingMode | None = None,
        with_grad: bool = False,
        route: bool = True,
    ) -> tuple[Tensor, RouterOutput | None]:
        """Run the trunk only.

        Args:
            with_grad: record gradients.
            route: run the router on the states. In training its dropout draws random numbers, so code that needs only
                the states passes False: it may run or not, depending on what is cached, and must not change the run.

        Returns:
            the trunk's states (B, T, D), and the router output computed from them, None without `route`.
        """
        with torch.set_grad_enabled(with_grad):
            content = self.content_mask(input_ids, attention_mask)  # (B, T)
            context = ForwardContext(content, allowed, mode or self.mode, stop=True, route=route)
            with self._lock:
                return self._run_locked(context, input_ids, attention_mask), context.routing

    def content_mask(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (B, T) bool: tokens that the router reads, all but special ones unless a text has no others."""
        content = mask.bool() & (ids[..., None] != self.special_token_ids).all(-1)  # (B, T)
        return content | (mask.bool() & ~content.any(1, keepdim=True))  # (B, T)

    def _run(
        self, context: ForwardContext, ids: Tensor, mask: Tensor | None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the states (B, T, D) at which this pass ends, and its gates (B, E) or (B, T, E)."""
        with self._lock:
            states = self._run_locked(context, ids, mask, positions)
            assert self.bank.route.gates is not None
            return states, self.bank.route.gates[..., : len(self.bank.routed_experts)]

    def _run_locked(
        self, context: ForwardContext, ids: Tensor, mask: Tensor | None, positions: Tensor | None = None
    ) -> Tensor:
        if context.trunk is not None and not self.trunk.output_format_known:
            self.encode_trunk(ids[:1, :2], torch.ones_like(ids[:1, :2]), route=False)
        self._context = context
        try:
            skipped = self.trunk.skipped() if context.trunk is not None else nullcontext()
            with skipped, torch.set_grad_enabled(context.grad and context.mode.backbone_grad):
                return backbone_states(self.backbone, ids, mask, positions)  # (B, T, D)
        except EndOfTrunk as end:
            return end.states  # (B, T, D)
        finally:
            self._context = None

    @contextmanager
    def generation(
        self, content: Tensor, allowed: Tensor | None = None, mode: RoutingMode | None = None
    ) -> Iterator[Callable[[], Tensor | None]]:
        """Route the backbone while other code runs it, as transformers' generation does with its cache.

        A text's gates are computed once, when its prompt (B, T) leaves the trunk, and reused for every generated token;
        if tokens are routed, each new token gets its own gates. Rows may be repeated, as in beam search: the beams of a
        text are adjacent.

        Args:
            content: (B, T), `content_mask` of the prompt.
            allowed: (B, E) bool, restricts each text's gates to these experts.
            mode: how texts, or tokens, are routed; by default the model's own mode.

        Yields:
            a function that returns the soft probabilities so far: (B', E) of texts, (B', T', E) of tokens; None for a
            constant route.
        """
        context = ForwardContext(content, allowed, mode or self.mode, keep=True)

        def probs() -> Tensor | None:
            if context.probs and context.probs[0].dim() == 3:
                return torch.cat(context.probs, -2)  # (B', T', E)
            return next(iter(context.probs), None)

        with self._lock:
            self._context = context
            try:
                yield probs
            finally:
                self._context = None

    @contextmanager
    def single_expert(self, name: str) -> Iterator[RoutingMode]:
        """Yield the mode that uses only this expert, without the router; its passes inside run on merged weights.

        See `ExpertBank.merged_adapter`.
        """
        with self.bank.merged_adapter(name):
            yield replace(self.mode, active_expert=name)

    @property
    def active_expert(self) -> str | None:
        """Name of the only expert of a model without a router; None for a mixture."""
        return self.mode.active_expert

    def train(self, mode: bool = True) -> "Mixture":
        """Set training or evaluation mode; the frozen backbone stays in evaluation mode.

        So the router reads the same trunk states in both modes. Backbone dropout added by `enable_dropout` does follow.
        """
        super().train(mode)
        self.backbone.eval()
        self.bank.train(mode)
        for module in self.backbone.modules():
            if isinstance(module, BackboneDropout):
                module.train(mode)
        return self

    def _on_trunk_end(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Set the route as the trunk's states enter the first layer with experts.

        Runs once a forward pass; in generation once a text, or at each token if tokens are routed.
        """
        context = self._context
        if context is None or (context.probs and context.probs[0].dim() == 2):
            return None
        states = args[0] if args else kwargs["hidden_states"]  # (B, T, D)
        states = states if context.trunk is None else context.trunk.to(states.dtype)  # (B, T, D)
        if context.route:
            with torch.set_grad_enabled(context.grad):
                self._route(states, context)
        if context.stop:
            raise EndOfTrunk(states)
        return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})

    def _route(self, states: Tensor, context: ForwardContext) -> None:
        mode = context.mode
        disabled = [name for name in mode.without if name in self.bank.shared_experts]
        if mode.active_expert is not None and mode.active_expert not in mode.without:
            self.bank.set_adapter(mode.active_expert, disabled)
            return
        if self.gate is None:
            self.bank.set_gates(None, disabled=disabled)
            return
        if context.known is not None:
            context.routing = context.known
            self._set_gates(context.known, mode, disabled)
            return
        mask = self._remaining(mode)  # (E,)
        beams = states.shape[0] // context.content.shape[0]  # len() would fix the number of texts of an exported graph
        content = context.content.repeat_interleave(beams, 0)  # (B', T)
        summary = self.gate.summary(states, content)  # (B, (1 + Q) · D)
        logits, unfamiliar = self.gate.logits(summary), self.gate.is_unfamiliar(summary)  # (B, G + E), (B,)
        logits_for_loss = logits.view_as(logits)  # (B, G + E)
        gates = mix_gates(self.gate, logits_for_loss, mode, context.allowed, mask).gates  # (B, E)
        probs = self.gate.compute_gates(logits).probs  # (B, E)
        no_expert = mask is not None and not bool(mask.any())
        gates = gates.detach() if mode.detach_gates else torch.zeros_like(gates) if no_expert else gates  # (B, E)
        updates = gates
        if unfamiliar is not None and not self.training and mode.is_soft and self.bank.shared_experts:
            updates = mute_gates(gates, unfamiliar, context.allowed)  # (B, E), the shared expert answers them alone
        context.routing = RouterOutput(gates, probs, logits, logits_for_loss, updates, unfamiliar)
        self._set_gates(context.routing, mode, disabled)
        if context.keep:
            context.probs.append(probs)

    def _set_gates(self, routing: RouterOutput, mode: RoutingMode, disabled: Sequence[str]) -> None:
        gates = routing.updates[:1] if len(mode.only) == 1 else routing.updates  # (1, E) or (B, E), of a constant route
        self.bank.set_gates(gates, only=mode.only, disabled=disabled, replacement=mode.replacement)

    def _remaining(self, mode: RoutingMode) -> Tensor | None:
        """Return which routed experts a mode does not leave out, (E,) bool; None if it leaves out none."""
        if not mode.without:
            return None
        assert set(mode.without) <= set(self.bank.adapters), mode.without
        remaining = [name not in mode.without for name in self.bank.routed_experts]
        return torch.tensor(remaining, device=self.domain_expert_mask.device)

    def expert_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of all experts under `expert/PEFT key`."""
        return {f"{n}/{k}": p for n in self.bank.adapters for k, p in self.bank.adapter_parameters(n).items()}

    def last_expert_parameters(self) -> list[nn.Parameter]:
        """Return the experts' parameters in the last linear layer that has any.

        These are the cheapest parameters that all losses share.
        """
        touched = {path for expert in self.bank.adapters.values() for path in expert.adapter.layers}
        last = [path for path in self.bank.layer_map.linear_layers if path in touched][-1:]
        return [
            parameter
            for name in self.bank.adapters
            for key, parameter in self.bank.adapter_parameters(name).items()
            if self.bank.layer_path(key) in last
        ]

    def trained_state(self) -> dict[str, Tensor]:
        """Return everything but the backbone: experts, heads and router, as in a checkpoint."""
        state: dict[str, Tensor] = {f"experts/{k}": p for k, p in self.expert_parameters().items()}
        state |= {f"heads/{k}": v for k, v in self.heads.state_dict().items()}
        if self.gate is not None:
            state |= {f"router/{k}": v for k, v in self.gate.state_dict().items()}
        return state

    @torch.no_grad()
    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Load what `trained_state` returned, strictly."""
        own = self.trained_state()
        assert own.keys() == state.keys(), sorted(own.keys() ^ state.keys())[:3]
        for key, tensor in own.items():
            tensor.copy_(state[key])

    def domain_index(self, name: str | None) -> int:
        """Return a domain's row in `domain_expert_mask`; −1 if it is unknown."""
        names = [domain.name for domain in self.domains]
        return names.index(name) if name in names else -1
