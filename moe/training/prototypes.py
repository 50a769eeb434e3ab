"""What a trained expert's folder keeps for a router: statistics of its training states, and a gate of its own.

Neither holds a text. `moe.merging.router_init` makes a router of them.
"""

from dataclasses import fields

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from experts.domain import LabelSpace, head_kind
from experts.errors import Fault
from moe.console import info
from moe.data.collator import Batch, model_inputs, tokenize
from moe.data.sampler import subsample_per_domain
from moe.drift.fit import MAX_ROWS, fit_state_distribution
from moe.kinds.losses import ROW_LOSSES
from moe.model.heads import LabelTables, mask_logits
from moe.model.mixture import Mixture
from moe.model.mode import SOFT
from moe.model.outputs import MixtureOutput
from moe.runs.workspace import Workspace
from moe.training.stage import TrainingData
from router.gate import GateOutput, mean_summary
from router.prior import COMPONENTS, EXPERT_GATE, StatePrototype

BATCH_SIZE = 32
MIN_NOISE = 0.01
"""Least variance in any direction, as a share of the mean variance: a few rows vary in a few directions only."""
MIN_ROWS = 4
"""Fewest rows that a prototype is fitted on."""
GATE_LR = 5e-3
"""AdamW learning rate of an expert's own gate, as in PHATGOOSE's paper."""


def state_prototype(model: Mixture, rows: Dataset, template: str, max_length: int, seed: int) -> dict[str, Tensor]:
    """Return the prototype of training rows: the distribution of the states that a router will read.

    At most half as many directions as rows have a variance of their own; the others share that of the rest, so that the
    covariance of few rows is shrunken more. Fewer than `MIN_ROWS` rows have no prototype.

    Args:
        model: any model of the backbone and trunk; its experts have no influence.
        rows: of which a random sample of at most `MAX_ROWS` is read.
        seed: of the sample.
    """
    if len(rows) < MIN_ROWS:
        return {}
    order = np.random.default_rng(seed).permutation(len(rows))[:MAX_ROWS]
    states = mean_states(model, rows.select(order), template, max_length)  # (N, D)
    space = fit_state_distribution(states, np.array(["rows"] * len(order)), ["rows"], min(COMPONENTS, len(order) // 2))
    fitted = {
        "mean": space.means[0],
        "directions": space.directions,
        "variances": space.variances,
        "noise": np.asarray(max(space.noise, MIN_NOISE * states.var(0).mean(), np.finfo(np.float32).eps)),
        "rows": np.asarray(float(len(order))),
    }
    return {field.name: torch.tensor(fitted[field.name], dtype=torch.float32) for field in fields(StatePrototype)}


@torch.no_grad()
def mean_states(model: Mixture, rows: Dataset, template: str, max_length: int) -> np.ndarray:
    """Return the mean normalized trunk state of each row, (N, D)."""
    tokenizer, device = model.loaded_backbone.tokenizer, model.special_token_ids.device
    parts = []
    for start in range(0, len(rows), BATCH_SIZE):
        chunk = rows[start : start + BATCH_SIZE]
        ids, mask = tokenize(chunk["text"], tokenizer, template, max_length, chunk["target"])  # (B, T) each
        ids, mask = ids.to(device), mask.to(device)
        states, _ = model.encode_trunk(ids, mask, route=False)  # (B, T, D)
        parts.append(mean_summary(states, model.content_mask(ids, mask)).cpu().numpy())  # (B, D)
    return np.concatenate(parts)


@torch.no_grad()
def fit_threshold(work: Workspace, model: Mixture) -> None:
    """Set the distance above which a text is unfamiliar: a quantile of the run's validation rows.

    Without prototypes, or without validation rows, nothing is set, and no text is unfamiliar.
    """
    gate, share = model.gate, work.run.gate.unfamiliar
    if gate is None or gate.prior is None or gate.prior.prototypes is None or not share:
        return
    try:
        rows = work.rows("validation", [domain.name for domain in model.domains])
    except Fault as fault:
        info(f"no text will be marked as unfamiliar, without validation rows: {fault}")
        return
    rows = subsample_per_domain(rows, MAX_ROWS, work.run.seed)
    means = mean_states(model, rows, work.run.template, work.run.backbone.resolved_length)  # (N, D)
    prototypes = gate.prior.prototypes
    distance = prototypes.distance(torch.as_tensor(means, device=prototypes.means.device))  # (N,)
    prototypes.threshold.copy_(distance.quantile(1 - share))


class _ExpertGate(nn.Module):
    """A gate σ(v · x) for the only expert of a model, x the mean normalized state of a text (Muqeeth et al. 2024)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))

    def summary(self, states: Tensor, mask: Tensor) -> Tensor:
        return mean_summary(states, mask)  # (B, D)

    def logits(self, summary: Tensor) -> Tensor:
        return (summary @ self.weight)[:, None]  # (B, 1)

    def compute_gates(self, logits: Tensor) -> GateOutput:
        return GateOutput(logits.sigmoid(), logits.sigmoid())

    def is_unfamiliar(self, summary: Tensor) -> None:
        return None


def expert_gate(model: Mixture, data: TrainingData, *, steps: int, seed: int) -> dict[str, Tensor]:
    """Train the gate of an expert on the expert's own rows, with everything else frozen; nothing for 0 steps.

    Args:
        model: the trained expert, without a router.
        seed: of the order of rows.
    """
    if not steps:
        return {}
    gate = _ExpertGate(model.backbone.config.hidden_size).to(model.special_token_ids.device)
    optimizer, tables = torch.optim.AdamW(gate.parameters(), lr=GATE_LR), LabelTables.of(model.labels)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rng = np.random.default_rng(seed)
    model.eval().requires_grad_(False)
    model.gate = gate  # type: ignore[assignment]  # it has those of a gate's methods that a pass calls
    try:
        for _ in range(steps):
            rows = rng.choice(len(data.rows), min(BATCH_SIZE, len(data.rows)), replace=False)
            collated = data.collate([data.rows[int(row)] for row in rows])
            batch = {name: tensor.to(gate.weight.device) for name, tensor in collated.items()}
            loss = _row_loss(model(**model_inputs(batch), mode=SOFT), batch, tables, model.labels)
            if loss is not None:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    finally:
        model.gate = None
        for parameter in trainable:
            parameter.requires_grad_(True)
    return {EXPERT_GATE: gate.weight.detach().cpu()}


def _row_loss(output: MixtureOutput, batch: Batch, tables: LabelTables, labels: LabelSpace) -> Tensor | None:
    """Mean loss of the rows with a label, without class weights, and of those with a score alone; None without any."""
    losses = []
    for head, logits in output.logits.items():
        has = tables.labelled_rows(head, batch["task"], batch["label"])  # (B,)
        mask = tables.masks[head].to(has.device)[batch["task"][has]]  # (B', K)
        row_losses = ROW_LOSSES[head_kind(head, labels.heads[head])]
        losses.append(row_losses(mask_logits(logits[has].float(), mask), batch["label"][has], mask, 0.0, 0.0))
    if output.polarity is not None:
        has = tables.rows_with_score_alone(batch["task"]) & ~batch["score"].isnan()  # (B,)
        losses.append((output.polarity[has].float() - batch["score"][has]).square())
    rows = torch.cat(losses)  # (B,)
    return rows.mean() if len(rows) else None
