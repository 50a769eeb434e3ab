"""The mixture: trunk → gates → gated layers → heads, in one pass of the backbone. The heart of FinMoE.

Training an expert is this with a constant route. Losses are `moe.training.objective`'s, files
`moe.checkpoints.mixture`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from experts.adapter_bank import ExpertBank
from experts.domain import Domain, LabelSpace
from moe.model.backbone import Backbone
from moe.model.backbone_ops import BackboneDropout
from moe.model.heads import Heads, MixedHeads, NoHeads, pool
from moe.model.packing import backbone_states
from moe.model.trunk import EndOfTrunk, Trunk
from router.gate import Gate, GateOutput, equal_gates, one_hot_gates, restrict_gates


@dataclass
class RouterOutput:
    """What the router said in one pass; (B, T, ·) instead of (B, ·) where tokens are routed.

    Args:
        gates: (B, E), what the experts were blended by.
        dense: (B, E), soft probabilities, for the routing losses and for reports.
        logits: (B, G + E), where the domain and balance losses meet.
        branch: the same values on the sentiment loss's own path, so that its gradient can be told apart.
    """

    gates: Tensor
    dense: Tensor
    logits: Tensor
    branch: Tensor


@dataclass
class MixtureOutput:
    """One pass: pooled state (B, D), logits (B, K) by head, polarity (B,), and the routing if it was learned.

    A language model has no heads of ours: its `pooled` are the last states, (B, T, D), which its own head reads; or the
    trunk's, where a router learns with gates that let no gradient through.
    """

    pooled: Tensor
    logits: dict[str, Tensor]
    polarity: Tensor | None
    routed: RouterOutput | None


@dataclass
class _Pass:
    """What the trunk's end is told of the pass that is now running; `keep` lays one route for many passes."""

    own: Tensor
    allowed: Tensor | None
    hard: bool
    trunk: Tensor | None = None
    stop: bool = False
    keep: bool = False
    routed: RouterOutput | None = None
    said: list[Tensor] = field(default_factory=list)
    learns: bool = field(default_factory=torch.is_grad_enabled)


class Mixture(nn.Module):
    """N experts beside one frozen backbone, blended by the router or fixed to one of them.

    Args:
        backbone: loaded and frozen.
        bank: its experts.
        gate: the router; None for a constant route.
        heads: class and polarity heads; `NoHeads` where the backbone's own language-model head answers.
        domains: the domains, whose experts are columns of the gates.
        labels: which task reads which head.
        pooling: `mean` or `last`.
    """

    special: Tensor
    owners: Tensor

    def __init__(
        self,
        backbone: Backbone,
        bank: ExpertBank,
        gate: Gate | None,
        heads: Heads | MixedHeads | NoHeads,
        domains: Sequence[Domain],
        labels: LabelSpace,
        pooling: str,
    ) -> None:
        super().__init__()
        self.backbone, self.gate, self.heads = backbone.model, gate, heads
        self.bank, self.domains, self.labels, self.pooling = bank, tuple(domains), labels, pooling
        self.source = backbone
        self.only: str | None = None
        self.kept: Tensor | None = None
        self.alike = False
        self.detach_gates = False
        self.deep = True
        self.register_buffer("special", torch.tensor(backbone.tokenizer.all_special_ids), persistent=False)
        self.register_buffer("owners", build_domain_expert_mask(bank.names, domains), persistent=False)
        self._pass: _Pass | None = None
        self.trunk = Trunk(self.backbone, bank.trunk_depth)
        self.trunk.next.register_forward_pre_hook(self._enter, with_kwargs=True)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        allowed: Tensor | None = None,
        hard: bool = False,
        trunk: Tensor | None = None,
        position_ids: Tensor | None = None,
        read: Tensor | None = None,
        **_: Any,
    ) -> MixtureOutput:
        """One pass over token ids (B, T).

        Args:
            attention_mask: (B, T), 0 at padding; or, for several documents a row, (B, 1, T, T) bool, or None where
                position ids that start anew tell a decoder where each begins.
            allowed: (B, E) bool, pins each text's gates to these experts.
            hard: each text goes to its one most probable expert.
            trunk: (B, T, D), what `look` gave for these ids; the first layers are then not run again.
            position_ids: (B, T), where they are not counted from 0 in every row.
            read: (B, T) bool, the tokens that the router may read: a prompt's, not its answer's; by default all.
        """
        flat = attention_mask is not None and attention_mask.dim() == 2
        real = attention_mask if attention_mask is not None and flat else torch.ones_like(input_ids)  # (B, T)
        own = self.content_mask(input_ids, real if read is None else real * read)  # (B, T)
        router_alone = self.training and self.detach_gates and isinstance(self.heads, NoHeads)
        now = _Pass(own, allowed, hard, trunk, stop=router_alone)  # no later layer could teach it anything
        states, routed = self._run(now, input_ids, attention_mask, position_ids)
        if isinstance(self.heads, NoHeads):
            return MixtureOutput(states, {}, None, routed)
        pooled = pool(states, real, self.pooling)  # (B, D)
        if self.training and not pooled.requires_grad:
            pooled.requires_grad_()  # DAO measures there even when all below is frozen
        gates = routed.gates if routed else self.bank.route_state.gates
        out = self.heads(pooled, None if gates is None else gates[..., : len(self.bank.names)])
        return MixtureOutput(pooled, out.logits, out.polarity, routed)

    def encode_trunk(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        allowed: Tensor | None = None,
        hard: bool = False,
        back: bool = False,
    ) -> tuple[Tensor, RouterOutput | None]:
        """The trunk alone: its states (B, T, D), and what the router makes of them; with a way `back` if asked."""
        with torch.set_grad_enabled(back):
            now = _Pass(self.content_mask(input_ids, attention_mask), allowed, hard, stop=True)
            return self._run(now, input_ids, attention_mask)

    def own_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) bool: a text's tokens without special ones, which the router reads; all where it has no other."""
        own = mask.bool() & (ids[..., None] != self.special).all(-1)  # (B, T)
        return own | (mask.bool() & ~own.any(1, keepdim=True))  # (B, T)

    def _run(
        self, now: _Pass, ids: Tensor, mask: Tensor | None, positions: Tensor | None = None
    ) -> tuple[Tensor, RouterOutput | None]:
        """The backbone's states (B, T, D) where this pass ends, and the routing on the way."""
        if now.trunk is not None and not self.trunk.known:
            self.encode_trunk(ids[:1, :2], torch.ones_like(ids[:1, :2]))
        self._pass = now
        try:
            skipped = self.trunk.skipped() if now.trunk is not None else nullcontext()
            with skipped, torch.set_grad_enabled(now.learns and self.deep):
                states = backbone_states(self.backbone, ids, mask, positions)  # (B, T, D)
        except EndOfTrunk as reached:
            states = reached.states  # (B, T, D)
        finally:
            self._pass = None
        return states, now.routed

    @contextmanager
    def answering(
        self, own: Tensor, allowed: Tensor | None = None, hard: bool = False
    ) -> Iterator[Callable[[], Tensor | None]]:
        """Let others run the backbone while it lasts, as transformers' generation does with its cache.

        A text's gates are made once, where its prompt (B, T) leaves the trunk, and kept for all that follows; where
        tokens are routed, each new token's as it comes. Rows may be repeated, as beams are: each text's stand together.

        Args:
            own: (B, T), the prompt's own tokens.
            allowed: (B, E) bool, pins each text's gates to these experts.
            hard: each text, or token, goes to its one most probable expert.

        Yields:
            what tells the soft shares so far: (B', E) of texts, (B', T', E) of tokens; None of a constant route.
        """
        self._pass = now = _Pass(own, allowed, hard, keep=True)
        try:
            yield lambda: torch.cat(now.said, -2) if now.said and now.said[0].dim() == 3 else next(iter(now.said), None)
        finally:
            self._pass = None

    @contextmanager
    def shallow(self) -> Iterator[None]:
        """Run the backbone without its graph while it lasts: gradients end at heads and router."""
        self.deep = False
        try:
            yield
        finally:
            self.deep = True

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Answer by this expert and no router while it lasts; see `ExpertBank.alone`."""
        before, self.only = self.only, name
        try:
            with self.bank.alone(name):
                yield
        finally:
            self.only = before

    @contextmanager
    def restricted(self, without: Sequence[str] = (), alike: bool = False) -> Iterator[None]:
        """Answer without these experts while it lasts: the gates of the others are renormalised.

        Args:
            without: routed or shared experts that are not asked; all of them leaves the backbone alone.
            alike: the routed ones that are left get equal shares, whatever the router says.
        """
        assert set(without) <= set(self.bank.attached), without
        before, muted = (self.kept, self.alike), self.bank.muted
        kept = torch.tensor([name not in without for name in self.bank.names], device=self.owners.device)  # (E,)
        self.kept, self.alike = kept, alike
        self.bank.muted = tuple(name for name in self.bank.shared if name in without)
        try:
            yield
        finally:
            (self.kept, self.alike), self.bank.muted = before, muted

    def train(self, mode: bool = True) -> "Mixture":
        """Training or evaluation of all but the backbone, whose trunk shows the router the same state in both."""
        super().train(mode)
        self.backbone.eval()
        self.bank.train(mode)
        for module in self.backbone.modules():
            if isinstance(module, BackboneDropout):
                module.train(mode)
        return self

    def _enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs as the trunk's state enters the first layer with experts: once a pass, once a text in generation."""
        now = self._pass
        if now is None or (now.said and now.said[0].dim() == 2):
            return None
        states = args[0] if args else kwargs["hidden_states"]  # (B, T, D)
        states = states if now.trunk is None else now.trunk.to(states.dtype)  # (B, T, D)
        with torch.set_grad_enabled(now.learns):
            self._route(states, now)
        if now.stop:
            raise EndOfTrunk(states)
        return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})

    def _route(self, states: Tensor, now: _Pass) -> None:
        if self.only:
            self.bank.constant(self.only)
            return
        bare = self.kept is not None and not bool(self.kept.any())
        assert self.gate is not None
        times = states.shape[0] // now.own.shape[0]  # beams; len() would fix the number of texts of an exported graph
        logits = self.gate.logits(self.gate.summary(states, now.own.repeat_interleave(times, 0)))  # (B, G + E)
        branch = logits.view_as(logits)  # (B, G + E)
        gates, dense = self._mix(branch, now).gates, self.gate.mix(logits).dense  # (B, E)
        gates = gates.detach() if self.detach_gates else torch.zeros_like(gates) if bare else gates  # (B, E)
        self.bank.route(gates)
        now.routed = RouterOutput(gates, dense, logits, branch)
        if now.keep:
            now.said.append(dense)

    def _mix(self, logits: Tensor, now: _Pass) -> GateOutput:
        assert self.gate is not None
        mixed = equal_gates(self.gate.mix(logits)) if self.alike else self.gate.mix(logits)
        allowed = now.allowed
        if self.kept is not None and self.kept.any():
            allowed = self.kept[None] if allowed is None else restrict_allowed(allowed, self.kept)  # (B, E) or (1, E)
        if allowed is not None:
            mixed = restrict_gates(mixed, allowed.repeat_interleave(logits.shape[0] // allowed.shape[0], 0))
        return one_hot_gates(mixed) if now.hard else mixed

    def expert_parameters(self) -> dict[str, nn.Parameter]:
        """All experts' parameters, by expert and PEFT key."""
        return {f"{n}/{k}": p for n in self.bank.attached for k, p in self.bank.parameters_of(n).items()}

    def last_expert_parameters(self) -> list[nn.Parameter]:
        """The experts' parameters in the last linear layer that has any: the cheapest weights that all losses share."""
        touched = {path for one in self.bank.attached.values() for path in one.adapter.layers}
        last = [path for path in self.bank.layers.linear if path in touched][-1:]
        return [
            parameter
            for name in self.bank.attached
            for key, parameter in self.bank.parameters_of(name).items()
            if self.bank.path_of(key) in last
        ]

    def trained_state(self) -> dict[str, Tensor]:
        """Everything but the backbone: what a checkpoint holds."""
        state: dict[str, Tensor] = {f"experts/{k}": p for k, p in self.expert_parameters().items()}
        state |= {f"heads/{k}": v for k, v in self.heads.state_dict().items()}
        if self.gate is not None:
            state |= {f"router/{k}": v for k, v in self.gate.state_dict().items()}
        return state

    @torch.no_grad()
    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Fill from `trained_state`, strictly."""
        mine = self.trained_state()
        assert mine.keys() == state.keys(), sorted(mine.keys() ^ state.keys())[:3]
        for key, tensor in mine.items():
            tensor.copy_(state[key])

    @property
    def own_domains(self) -> tuple[Domain, ...]:
        """The domains that it was made for: a lone expert's own one, of a mixture or the shared expert all."""
        names = (self.only, (self.only or "").rsplit("-", 1)[0])  # `news`, or `news-2` of several
        return tuple(one for one in self.domains if one.name in names) or self.domains

    def domain_index(self, name: str | None) -> int:
        """A domain's row in `owners`; −1 where it is none of ours."""
        names = [domain.name for domain in self.domains]
        return names.index(name) if name in names else -1


def build_domain_expert_mask(experts: Sequence[str], domains: Sequence[Domain]) -> Tensor:
    """(domains, E) bool: which experts belong to each domain."""
    rows = [[name in domain.expert_names for name in experts] for domain in domains]
    return torch.tensor(rows, dtype=torch.bool).reshape(len(domains), len(experts))


def restrict_allowed(allowed: Tensor, kept: Tensor) -> Tensor:
    """(B, E) bool: a text's allowed experts that are among the kept (E,); all the kept where none of its own is."""
    own = allowed & kept  # (B, E)
    return torch.where(own.any(-1, keepdim=True), own, kept)  # (B, E)


def allowed_experts(owners: Tensor, domain: Tensor) -> Tensor:
    """(B, E) bool from domain indices (B,); a row of False where the domain is unknown (−1)."""
    return owners[domain.clamp(min=0)] & (domain >= 0)[:, None]
