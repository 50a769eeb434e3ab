"""The start of a merged mixture's router: from the experts' prototypes, updates or own gates, without training."""

from collections.abc import Sequence
from dataclasses import fields

from torch import Tensor

from experts.adapter_bank import ExpertBank
from experts.errors import Fault
from experts.expert_io import PROTOTYPES, ExpertFolder
from moe.model.mixture import Mixture
from router.gate import Gate
from router.prior import EXPERT_GATE, RouterPrior, StatePrototype, arrow_direction, standardized

ATTENTION_INPUTS = (
    *("query", "key", "value", "q_proj", "k_proj", "v_proj", "q", "k", "v", "q_lin", "k_lin", "v_lin"),
    *("query_key_value", "qkv_proj", "c_attn", "Wqkv"),
)
"""Names of linear layers that read the state that enters a transformer layer."""


def init_router(model: Mixture, experts: Sequence[ExpertFolder]) -> None:
    """Start the router of a merged mixture as its settings say.

    Args:
        experts: the routed experts, in the order of the gates' columns, loaded in the model.

    Raises:
        Fault: if an expert lacks what the router starts from.
    """
    assert model.gate is not None
    prior = model.gate.prior
    if prior is None:
        return
    if prior.kind == "centroid":
        prior.fit([read_prototype(expert) for expert in experts])
        return
    for column, expert in enumerate(experts):
        prior.set_row(column, prior_row(prior, model.bank, expert))


def add_to_router(model: Mixture, expert: ExpertFolder, columns: Sequence[int | None], old: Gate) -> None:
    """Give a new expert of a mixture its own row of the router's prior; nothing for a router that started at random.

    Args:
        expert: loaded in the model.
        columns: for each expert its column of the old gate; None for the new one.
        old: the gate without it.

    Raises:
        Fault: if the expert lacks what such a router starts from.
    """
    assert model.gate is not None
    prior = model.gate.prior
    if prior is None or old.prior is None:
        return
    if prior.kind == "centroid":
        assert old.prior.prototypes is not None
        new, known = read_prototype(expert), old.prior.prototypes
        prior.refit([new if c is None else known.prototype(c) for c in columns], old.prior, columns)
    else:
        prior.set_row(columns.index(None), prior_row(prior, model.bank, expert))


def prior_row(prior: RouterPrior, bank: ExpertBank, expert: ExpertFolder) -> Tensor:
    """Weight (D,) of an expert in an Arrow or PHATGOOSE prior."""
    if prior.kind == "arrow":
        return arrow_row(bank, expert.name)
    if EXPERT_GATE not in expert.prototypes:
        raise Fault(
            f"a gate trained with the expert in {expert.path / PROTOTYPES}, for --router phatgoose",
            "none",
            "train the expert again with --set gate.expert_gate_steps=100 --overwrite, or use --router arrow",
        )
    return standardized(expert.prototypes[EXPERT_GATE])


def read_prototype(expert: ExpertFolder) -> StatePrototype:
    """Return an expert's prototype.

    Raises:
        Fault: if it has none.
    """
    names = [field.name for field in fields(StatePrototype)]
    if any(name not in expert.prototypes for name in names):
        raise Fault(
            f"prototypes of training states in {expert.path / PROTOTYPES}, for --router centroid",
            "none: a plain PEFT adapter, a language model's expert, or one trained by an earlier version",
            "use --router arrow, which needs no prototypes, or --router random; or train the expert again",
        )
    return StatePrototype(*(expert.prototypes[name] for name in names))


def arrow_row(bank: ExpertBank, name: str) -> Tensor:
    """Return the direction (D,) to which an expert's update responds most in the first attention layer that it adapts.

    Its updates of that layer's query, key and value, which read the same state, are taken together.

    Raises:
        Fault: if it adapts none of them in any layer.
    """
    update = bank.low_rank_update(name)
    attention = [path for path in update.layers if path.rpartition(".")[2] in ATTENTION_INPUTS]
    if not attention:
        raise Fault(
            f"updates of query, key or value layers in expert {name}, for --router arrow",
            f"updates of {', '.join(sorted({path.rpartition('.')[2] for path in update.layers}))} only",
            "use --router random, or an adapter of attention layers",
        )
    first = min(map(bank.layer_map.layer_index, attention))
    return arrow_direction([update.layers[path] for path in attention if bank.layer_map.layer_index(path) == first])
