"""The variants of an ablation as data: what is left out or replaced, and how."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from experts.errors import Fault, suggest
from moe.config.run import RunSettings
from moe.config.stages import EXPERT, MERGED
from moe.model.backbone import read_backbone_config
from moe.model.mode import Routing
from moe.sweep.grid import as_yaml

FULL = "full"
MERGES = {"linear": "linear", "svd": "svd", "ties": "ties", "dare": "dare_linear"}
"""PEFT's merge methods by name of their variant. `cat` is not among them: it equals uniform gates."""


@dataclass(frozen=True)
class InferenceVariant:
    """The trained mixture, evaluated with other routing or without some experts.

    Args:
        name: name of the variant.
        description: what it shows, for people.
        without: experts that are left out.
        uniform_gates: give the routed experts equal gates.
        routing: soft or hard.
        pin: route each text to the experts of its true domain.
        merge: PEFT's method to merge the routed experts, with equal weights, into one adapter that replaces the router.
    """

    name: str
    description: str
    without: tuple[str, ...] = ()
    uniform_gates: bool = False
    routing: Routing = "soft"
    pin: bool = False
    merge: str | None = None


@dataclass(frozen=True)
class RetrainedVariant:
    """The run, trained again with other settings.

    Args:
        name: name of the variant, and of its folder below `ablation/`.
        description: what it shows, for people.
        sets: `key=value` overrides of the run's config.
        start: what is reused from the run: its merged mixture, its experts, or nothing.
    """

    name: str
    description: str
    sets: tuple[str, ...]
    start: Literal["merged", "experts", "nothing"]

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of the run that are reused."""
        return {"merged": (MERGED,), "experts": (EXPERT.folder,), "nothing": ()}[self.start]


Variant = InferenceVariant | RetrainedVariant


def inference_variants(
    routed: Sequence[str],
    shared: Sequence[str],
    language: bool = False,
    roles: Mapping[str, Sequence[str]] | None = None,
) -> list[InferenceVariant]:
    """Return the variants that need no training, the full mixture first.

    Args:
        routed: names of the routed experts.
        shared: names of the shared experts.
        language: whether it is a language model, which is also evaluated with each expert alone and with none.
        roles: experts by role; a role of several experts is also left out as a group.
    """
    variants = [InferenceVariant(FULL, "the full mixture")]
    if len(routed) > 1:
        variants += [InferenceVariant(f"without-{name}", f"without expert {name}", (name,)) for name in routed]
    for role, experts in (roles or {}).items():
        if 1 < len(experts) < len(routed):
            description = f"without the experts of role {role}"
            variants.append(InferenceVariant(f"without-role-{role}", description, tuple(experts)))
    variants += [InferenceVariant(f"without-{name}", f"without the {name} expert", (name,)) for name in shared]
    if language and len(routed) > 1:
        for name in routed:
            others = tuple(other for other in routed if other != name)
            variants.append(InferenceVariant(f"only-{name}", f"expert {name} alone", others))
    if language:
        variants.append(InferenceVariant("backbone-alone", "no experts", (*routed, *shared)))
    merged = [
        InferenceVariant(
            f"merged-{name}",
            f"experts merged by PEFT's {method}, no router",
            uniform_gates=True,
            merge=method,
        )
        for name, method in MERGES.items()
        if len(routed) > 1
    ]
    return [
        *variants,
        InferenceVariant("routing-hard", "each text routed to its most probable expert only", routing="hard"),
        InferenceVariant("routing-uniform", "uniform gates, no router", uniform_gates=True),
        InferenceVariant("routing-oracle", "each text routed to the experts of its true domain", pin=True),
        *merged,
    ]


def retrained_variants(run: RunSettings) -> list[RetrainedVariant]:
    """Return the variants that need training, without those that equal the run."""
    return [*_loss_variants(run), *_gate_variants(run), *_architecture_variants(run)]


def _loss_variants(run: RunSettings) -> Iterator[RetrainedVariant]:
    losses = run.losses
    for loss, name in (("domain", "domain-loss-off"), ("balance", "balance-off"), ("polarity", "polarity-off")):
        if loss not in losses.without and not (loss == "polarity" and run.label_space().score_tasks):
            without = as_yaml([*losses.without, loss])
            yield RetrainedVariant(name, f"no {loss} loss", (f"losses.without={without}",), "merged")
    if losses.classes == "dao":
        yield RetrainedVariant("imbalance-off", "plain cross-entropy", ("losses.classes=cross_entropy",), "merged")
    if losses.outer == "dao":
        yield RetrainedVariant("outer-constant", "constant weights for outer DAO", ("losses.outer=constant",), "merged")
    if losses.inner == "dao":
        fixed = ("dao.imbalance=fixed",) if run.dao.imbalance != "fixed" else ()  # only inner DAO can learn it
        sets = ("losses.inner=constant", *fixed)
        yield RetrainedVariant("inner-constant", "constant weights for inner DAO", sets, "merged")


def _gate_variants(run: RunSettings) -> Iterator[RetrainedVariant]:
    domains = run.domain_list()
    one_expert_per_group = len({domain.group for domain in domains}) == sum(domain.experts for domain in domains)
    equal = {run.gate.kind}
    if one_expert_per_group and run.gate.kind in ("soft", "team"):
        equal |= {"soft", "team"}
    names = {"soft": "gate-soft", "hard": "gate-hard", "team": "gate-team", "fixed": "gate-uniform"}
    for kind, name in names.items():
        if kind not in equal:
            sets = (f"gate.kind={kind}", "gate.fixed=null", "gate.top_k=null")
            description = f"{kind} gates" if kind != "fixed" else "uniform gates, no router"
            yield RetrainedVariant(name, description, sets, "experts")


def _architecture_variants(run: RunSettings) -> Iterator[RetrainedVariant]:
    depth, layers = run.backbone.trunk_depth, read_backbone_config(run.backbone).num_hidden_layers
    for other in (depth - 1, depth + 1):
        fits = run.shared is None or run.shared.init is None  # a trained expert fits one depth only
        if 0 <= other < layers and fits:
            sets = (f"backbone.trunk_depth={other}",)
            yield RetrainedVariant(f"trunk-{other}", f"trunk of {other} layers instead of {depth}", sets, "nothing")
    if run.shared:
        yield RetrainedVariant("shared-off", "no shared expert", ("shared=null",), "nothing")
    else:
        shared = as_yaml(run.lora.model_dump(mode="json"))
        yield RetrainedVariant("shared-on", "with a shared expert", (f"shared={shared}",), "nothing")


def select_variants(variants: Sequence[Variant], only: Sequence[str], retrain: bool) -> list[Variant]:
    """Return the requested variants, always with the full mixture.

    Args:
        only: names; all by default.
        retrain: include variants that need training.

    Raises:
        Fault: for an unknown name, or one that needs training without `retrain`.
    """
    names = [variant.name for variant in variants]
    for name in only:
        if name not in names:
            raise Fault(f"one of the variants {', '.join(names)}", repr(name), suggest(name, names))
    selected = [variant for variant in variants if not only or variant.name in (*only, FULL)]
    if retrain:
        return selected
    if only and (untrained := [variant.name for variant in selected if isinstance(variant, RetrainedVariant)]):
        raise Fault("variants that need no training", ", ".join(untrained), "add --retrain to train them")
    return [variant for variant in selected if isinstance(variant, InferenceVariant)]
