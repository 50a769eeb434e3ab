"""The model to export and the experts to take from it: single ones, or several merged into one."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from experts.errors import Fault, suggest
from experts.lora_delta import LowRankUpdate, sum_updates
from experts.merge_methods import DEFAULT_DENSITY, check_merge_method, is_pruning_method, merge_updates
from moe.inference.calibration import Calibration, read_calibration
from moe.inference.load_mixture import load_mixture
from moe.model.heads import Heads, MixedHeads
from moe.model.mixture import Mixture
from moe.runs.model_ref import resolve


@dataclass(frozen=True)
class ExportSource:
    """A loaded model.

    Args:
        folder: folder of a mixture or of one expert.
        template: prompt template that the model was trained with.
        max_length: maximum number of tokens per text.
        calibration: temperatures, if the model is calibrated.
    """

    folder: Path
    model: Mixture
    template: str
    max_length: int
    calibration: Calibration | None

    @property
    def language(self) -> bool:
        """Whether it is a language model, which uses the backbone's own head."""
        return self.model.loaded_backbone.lm_head is not None

    @property
    def causal(self) -> bool:
        """Whether it is a causal language model, which inference servers can serve."""
        head = self.model.loaded_backbone.lm_head
        return head is not None and head.kind == "causal"


def load_export_source(folder: Path, sets: Sequence[str]) -> ExportSource:
    """Load a mixture or one expert, for classification or generation.

    Raises:
        Fault: if the folder is missing or damaged, or the backbone does not match.
    """
    model, template, max_length = load_mixture(resolve(folder), sets, language=True)
    return ExportSource(folder, model, template, max_length, read_calibration(folder))


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter to export.

    Args:
        name: of the adapter.
        weights: by expert; a single expert has weight 1.
        method: PEFT's name of the merge method; None for a single expert.
        density: fraction of entries that pruning methods keep.
        rank: of the result, for methods that end in `svd`.
    """

    name: str
    weights: Mapping[str, float]
    method: str | None = None
    density: float = DEFAULT_DENSITY
    rank: int | None = None


def single_expert_specs(model: Mixture, names: Sequence[str]) -> list[AdapterSpec]:
    """Return one spec per named expert; without names, one per expert of the mixture.

    Raises:
        Fault: if an expert is unknown.
    """
    known = tuple(model.bank.adapters)
    for name in names:
        _check_known(name, known)
    return [AdapterSpec(name, {name: 1.0}) for name in names or known]


def merged_expert_spec(
    model: Mixture, method: str, weights: str | None, density: float | None = None, rank: int | None = None
) -> AdapterSpec:
    """Return the spec of several routed experts merged into one.

    Args:
        weights: such as `news=0.7,forum=0.3`; None gives all routed experts equal weights that add up to 1.

    Raises:
        Fault: if the method or an expert is unknown, an expert is given twice, there are fewer than two experts, or the
            method does not take `density` or `rank`.
    """
    check_merge_method(method)
    routed = model.bank.routed_experts
    by_expert = _parse_weights(weights, routed) if weights else dict.fromkeys(routed, 1.0 / max(1, len(routed)))
    if len(by_expert) < 2:
        names = ", ".join(by_expert) or "none"
        raise Fault("two or more experts to merge", names, "omit --merge to export a single expert")
    if density is not None and not (is_pruning_method(method) and 0 < density <= 1):
        raise Fault(
            "--density above 0 and up to 1, with ties, dare_… or magnitude_prune",
            f"{density:g} with {method}",
            "change --density or omit it",
        )
    if rank is not None and not (method.endswith("svd") and rank > 0):
        raise Fault("--rank above 0, with a method that ends in svd", f"{rank} with {method}", "omit --rank")
    return AdapterSpec(
        name=f"merged-{method.replace('_', '-')}",
        weights=by_expert,
        method=method,
        density=DEFAULT_DENSITY if density is None else density,
        rank=rank,
    )


def _parse_weights(text: str, known: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for item in text.split(","):
        name, _, value = item.strip().partition("=")
        _check_known(name, known)
        if name in weights:
            raise Fault(f"a single weight for {name}", "two or more", "give each expert once")
        try:
            weights[name] = float(value)
        except ValueError as error:
            remedy = "give a number, e.g. news=0.7,forum=0.3"
            raise Fault(f"--weights NAME=NUMBER, separated by commas, for {name}", repr(item), remedy) from error
        if not 0 < weights[name] <= 100:
            raise Fault(f"a weight above 0 and up to 100 for {name}", value, "omit experts that should have no weight")
    return weights


def _check_known(name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise Fault(f"one of the experts {', '.join(known)}", repr(name), suggest(name, known))


def adapter_update(model: Mixture, spec: AdapterSpec) -> LowRankUpdate:
    """Return the weight update of a spec's experts, without the shared experts that are always on."""
    bank = model.bank
    if spec.method is None:
        return bank.low_rank_update(next(iter(spec.weights)))
    updates = {name: bank.low_rank_update(name) for name in spec.weights}
    return merge_updates(updates, spec.weights, spec.method, bank.base_layers, spec.density, spec.rank)


def pinned_update(model: Mixture, spec: AdapterSpec) -> LowRankUpdate:
    """Return the weight update of a mixture restricted to a spec's experts: theirs and the shared experts'."""
    shared = [name for name in model.bank.shared_experts if name not in spec.weights]
    return sum_updates([adapter_update(model, spec), *(model.bank.low_rank_update(name) for name in shared)])


def heads_for(model: Mixture, spec: AdapterSpec) -> Heads | None:
    """Return the heads for a spec: the mixture's, or the weighted mean of its experts' own.

    The mean is exact for a single expert and for linear heads. None for a language model, and for a shared expert of a
    mixture with one head per expert.
    """
    if isinstance(model.heads, Heads):
        return model.heads
    if not isinstance(model.heads, MixedHeads):
        return None
    heads = {name: head for name, head in model.heads.experts.items() if name in spec.weights}
    if not heads:
        return None
    total = sum(spec.weights[name] for name in heads)
    states = {name: head.state_dict() for name, head in heads.items()}
    mean = deepcopy(next(iter(heads.values())))
    assert isinstance(mean, Heads)
    mean.load_state_dict(
        {key: sum(states[name][key] * (spec.weights[name] / total) for name in states) for key in mean.state_dict()}
    )
    return mean
