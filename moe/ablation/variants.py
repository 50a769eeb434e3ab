"""The rows of an ablation as data: what is left out, and how.

A row is added here; answering is `moe.ablation.run`'s, training `moe.ablation.retrain`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from experts.errors import Fault, suggest
from moe.config.run import RunSettings
from moe.config.stages import EXPERT, MERGED
from moe.inference.predictor import Routing
from moe.model.backbone import read_backbone_config
from moe.sweep.grid import as_yaml

FULL = "full"
MERGES = {"linear": "linear", "svd": "svd", "ties": "ties", "dare": "dare_linear"}
"""PEFT's ways to merge that are measured, by the name of their row; `cat` is exactly what equal gates do."""


@dataclass(frozen=True)
class InferenceVariant:
    """The trained mixture, asked in another way.

    Args:
        name: the row's.
        says: what it shows.
        without: experts that are not asked.
        alike: routed experts get equal gates.
        routing: soft or hard.
        pin: each text goes to the experts of its true domain.
        merge: PEFT's name of the way in which the routed experts are weighed, alike, into one for good; no router.
    """

    name: str
    says: str
    without: tuple[str, ...] = ()
    alike: bool = False
    routing: Routing = "soft"
    pin: bool = False
    merge: str | None = None


@dataclass(frozen=True)
class RetrainedVariant:
    """The run trained again with other settings.

    Args:
        name: the row's, and its folder's below `ablation/`.
        says: what it shows.
        sets: `key=value`, laid over the run's config.
        start: what is taken from the run: its merged mixture, its experts, or nothing.
    """

    name: str
    says: str
    sets: tuple[str, ...]
    start: Literal["merged", "experts", "nothing"]

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the run that it starts from."""
        return {"merged": (MERGED,), "experts": (EXPERT.folder,), "nothing": ()}[self.start]


Variant = InferenceVariant | RetrainedVariant


def inference_variants(
    routed: Sequence[str],
    shared: Sequence[str],
    language: bool = False,
    roles: Mapping[str, Sequence[str]] | None = None,
) -> list[InferenceVariant]:
    """The rows that need no training, of a mixture with these experts; the full mixture is the first.

    Args:
        language: a language model's, which answers without any expert too, and by each expert alone.
        roles: the experts of each role; one with several is left out as a whole too.
    """
    rows = [InferenceVariant(FULL, "the mixture as it is")]
    if len(routed) > 1:
        rows += [InferenceVariant(f"without-{name}", f"expert {name} not asked", (name,)) for name in routed]
    for role, experts in (roles or {}).items():
        if 1 < len(experts) < len(routed):
            rows.append(InferenceVariant(f"without-role-{role}", f"none of role {role} asked", tuple(experts)))
    rows += [InferenceVariant(f"without-{name}", f"{name} expert not asked", (name,)) for name in shared]
    if language and len(routed) > 1:
        rows += [InferenceVariant(f"only-{name}", f"expert {name} alone", _others(routed, name)) for name in routed]
    if language:
        rows.append(InferenceVariant("backbone-alone", "no expert asked", (*routed, *shared)))
    merged = [
        InferenceVariant(f"merged-{name}", f"experts merged for good by PEFT's {method}, no router", alike=True, merge=method)
        for name, method in MERGES.items()
        if len(routed) > 1
    ]
    return [
        *rows,
        InferenceVariant("routing-hard", "each text to its one most probable expert", routing="hard"),
        InferenceVariant("routing-uniform", "equal gates, no router", alike=True),
        InferenceVariant("routing-oracle", "each text to the experts of its true domain", pin=True),
        *merged,
    ]


def _others(names: Sequence[str], name: str) -> tuple[str, ...]:
    return tuple(one for one in names if one != name)


def retrained_variants(run: RunSettings) -> list[RetrainedVariant]:
    """The rows that need training; what the run does without already is not among them."""
    return [*_losses(run), *_gates(run), *_wholes(run)]


def _losses(run: RunSettings) -> Iterator[RetrainedVariant]:
    losses = run.losses
    for loss, name in (("domain", "domain-loss-off"), ("balance", "balance-off"), ("polarity", "polarity-off")):
        if loss not in losses.without:
            without = as_yaml([*losses.without, loss])
            yield RetrainedVariant(name, f"no {loss} loss", (f"losses.without={without}",), "merged")
    if losses.classes == "dao":
        yield RetrainedVariant("imbalance-off", "plain cross-entropy", ("losses.classes=cross_entropy",), "merged")
    if losses.outer == "dao":
        yield RetrainedVariant("outer-constant", "constants for outer DAO", ("losses.outer=constant",), "merged")
    if losses.inner == "dao":
        fixed = ("dao.imbalance=fixed",) if run.dao.imbalance != "fixed" else ()  # it learns by inner DAO alone
        yield RetrainedVariant("inner-constant", "constants for inner DAO", ("losses.inner=constant", *fixed), "merged")


def _gates(run: RunSettings) -> Iterator[RetrainedVariant]:
    one_each = len({one.group for one in run.domain_list()}) == sum(one.experts for one in run.domain_list())
    same = {run.gate.kind} | ({"soft", "team"} if one_each and run.gate.kind in ("soft", "team") else set())
    names = {"soft": "gate-soft", "hard": "gate-hard", "team": "gate-team", "fixed": "gate-uniform"}
    for kind, name in names.items():
        if kind not in same:
            sets = (f"gate.kind={kind}", "gate.fixed=null", "gate.top_k=null")
            yield RetrainedVariant(name, f"{kind} gates" if kind != "fixed" else "equal gates, no router", sets, "experts")


def _wholes(run: RunSettings) -> Iterator[RetrainedVariant]:
    depth, layers = run.backbone.trunk_depth, read_backbone_config(run.backbone).num_hidden_layers
    for other in (depth - 1, depth + 1):
        if 0 <= other < layers:
            sets = (f"backbone.trunk_depth={other}",)
            yield RetrainedVariant(f"trunk-{other}", f"trunk of {other} layers, not {depth}", sets, "nothing")
    if run.shared:
        yield RetrainedVariant("shared-off", "no shared expert", ("shared=null",), "nothing")
    else:
        shared = as_yaml(run.lora.model_dump(mode="json"))
        yield RetrainedVariant("shared-on", "a shared expert under the others", (f"shared={shared}",), "nothing")


def select_variants(rows: Sequence[Variant], only: Sequence[str], retrain: bool) -> list[Variant]:
    """The rows that are asked for, the full mixture always among them.

    Raises:
        Fault: for an unknown row, or one that has to be trained when training was not asked for.
    """
    names = [row.name for row in rows]
    for name in only:
        if name not in names:
            raise Fault(f"one of the rows {', '.join(names)}", repr(name), suggest(name, names))
    wanted = [row for row in rows if not only or row.name in (*only, FULL)]
    if retrain:
        return wanted
    if only and (late := [row.name for row in wanted if isinstance(row, RetrainedVariant)]):
        raise Fault("rows that need no training", ", ".join(late), "add --retrain to train them")
    return [row for row in wanted if isinstance(row, InferenceVariant)]
