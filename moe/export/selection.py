"""The model that is exported, opened, and which of its experts: one, or several weighed into one for good.

What is written of it lies in the modules beside, one a target.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from experts.errors import Fault, suggest
from experts.lora_delta import LowRankUpdate, sum_updates
from experts.merge_methods import DEFAULT_DENSITY, check_merge_method, is_pruning_method, merge_updates
from moe.inference.calibration import Calibration, read_calibration
from moe.inference.loading import load_any_model
from moe.model.heads import Heads, MixedHeads
from moe.model.mixture import Mixture


@dataclass(frozen=True)
class ExportSource:
    """An opened model folder.

    Args:
        folder: of a mixture or of one expert.
        model: of it.
        template: the one that it was trained with.
        max_length: tokens that it reads.
        calibration: its temperatures, if it has some.
    """

    folder: Path
    model: Mixture
    template: str
    max_length: int
    calibration: Calibration | None

    @property
    def language(self) -> bool:
        """Whether the backbone's own head answers, and none of ours."""
        return self.model.loaded_backbone.lm_head is not None

    @property
    def causal(self) -> bool:
        """Whether that head foresees the next token, as servers of language models expect."""
        head = self.model.loaded_backbone.lm_head
        return head is not None and head.kind == "causal"

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts that can be taken out of it."""
        return tuple(self.model.bank.adapters)


def load_export_source(folder: Path, sets: Sequence[str]) -> ExportSource:
    """A mixture or one expert, of labels or of language.

    Raises:
        Fault: when the folder is missing, broken, or made for another backbone.
    """
    model, template, length = load_any_model(folder, sets)
    return ExportSource(folder, model, template, length, read_calibration(folder))


@dataclass(frozen=True)
class AdapterSpec:
    """What becomes one adapter.

    Args:
        name: of the result.
        weights: by expert; one expert alone has weight 1.
        method: PEFT's name of the way to weigh several; None for one expert.
        density: share of entries that pruning methods keep.
        rank: of the result, for methods that end in `svd`.
    """

    name: str
    weights: Mapping[str, float]
    method: str | None = None
    density: float = DEFAULT_DENSITY
    rank: int | None = None


def single_expert_specs(model: Mixture, names: Sequence[str]) -> list[AdapterSpec]:
    """The named experts, each by itself; all, where none is named.

    Raises:
        Fault: for an unknown one.
    """
    known = tuple(model.bank.adapters)
    for name in names:
        _check_known(name, known)
    return [AdapterSpec(name, {name: 1.0}) for name in names or known]


def merged_expert_spec(
    model: Mixture, method: str, weights: str | None, density: float | None = None, rank: int | None = None
) -> AdapterSpec:
    """Routed experts weighed into one.

    Args:
        weights: `news=0.7,forum=0.3`; by default all alike, in sum 1.

    Raises:
        Fault: for an unknown method or expert, fewer than two experts, or what the method does not take.
    """
    check_merge_method(method)
    routed = model.bank.routed_experts
    given = _parsed(weights, routed) if weights else dict.fromkeys(routed, 1.0 / max(1, len(routed)))
    if len(given) < 2:
        raise Fault("two experts or more to merge", ", ".join(given) or "none", "leave --merge out for one alone")
    if density is not None and not (is_pruning_method(method) and 0 < density <= 1):
        raise Fault(
            "--density above 0 up to 1, for ties, dare_… and magnitude_prune", f"{density:g} for {method}", "mend it"
        )
    if rank is not None and not (method.endswith("svd") and rank > 0):
        raise Fault("--rank above 0, for methods that end in svd", f"{rank} for {method}", "leave it out")
    return AdapterSpec(f"merged-{method.replace('_', '-')}", given, method, DEFAULT_DENSITY if density is None else density, rank)


def _parsed(weights: str, known: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in weights.split(","):
        name, _, value = one.strip().partition("=")
        _check_known(name, known)
        try:
            found[name] = float(value)
        except ValueError as error:
            raise Fault(f"--weights NAME=NUMBER, comma between, for {name}", repr(one), "give a number") from error
        if not 0 < found[name] <= 100:
            raise Fault(f"a weight above 0 for {name}", value, "leave experts out that should not count")
    return found


def _check_known(name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise Fault(f"one of the experts {', '.join(known)}", repr(name), suggest(name, known))


def adapter_update(model: Mixture, choice: AdapterSpec) -> LowRankUpdate:
    """The chosen experts' update, without the shared ones that are always on."""
    bank = model.bank
    if choice.method is None:
        return bank.low_rank_update(next(iter(choice.weights)))
    updates = {name: bank.low_rank_update(name) for name in choice.weights}
    return merge_updates(updates, choice.weights, choice.method, bank.base_layers, choice.density, choice.rank)


def pinned_update(model: Mixture, choice: AdapterSpec) -> LowRankUpdate:
    """What a mixture pinned to the choice adds to its backbone: the choice's update and the shared experts'."""
    shared = [name for name in model.bank.shared_experts if name not in choice.weights]
    return sum_updates([adapter_update(model, choice), *(model.bank.low_rank_update(name) for name in shared)])


def heads_for(model: Mixture, choice: AdapterSpec) -> Heads | None:
    """The heads that answer for a choice: the mixture's, or the chosen experts' own by their weights' shares.

    Exact for one expert, and for linear heads; None for a language model, and for a shared expert of a mixture whose
    experts have heads of their own.
    """
    if isinstance(model.heads, Heads):
        return model.heads
    if not isinstance(model.heads, MixedHeads):
        return None
    known = {name: head for name, head in model.heads.experts.items() if name in choice.weights}
    if not known:
        return None
    total = sum(choice.weights[name] for name in known)
    states = {name: head.state_dict() for name, head in known.items()}
    mean = deepcopy(next(iter(known.values())))
    assert isinstance(mean, Heads)
    mean.load_state_dict(
        {key: sum(states[name][key] * (choice.weights[name] / total) for name in states) for key in mean.state_dict()}
    )
    return mean
