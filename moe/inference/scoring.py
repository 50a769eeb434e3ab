"""Log-likelihood of answers given a prompt, Σ log p of their tokens, for many pairs at a time.

If the backbone can separate documents in a packed row, a prompt is encoded once for all its answers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe.inference.batches import batch_by_tokens
from moe.inference.finite import NonFiniteScores
from moe.inference.torch_predictor import token_budget
from moe.model.backbone_ops import PackingMode, find_packing_mode
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode
from moe.model.routing import allowed_experts

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of the answer that follows it."""


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of an answer.

    Args:
        total: Σ log p of its tokens.
        tokens: number of its tokens.
        greedy: whether every token is the most probable one at its position.
    """

    total: float
    tokens: int
    greedy: bool

    @property
    def mean(self) -> float:
        """Log p per token, so that a longer answer is not worse for its length."""
        return self.total / max(1, self.tokens)


@dataclass(frozen=True)
class _PromptTree:
    """A prompt with its answers, and the index of each answer's pair."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    pairs: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))


@torch.inference_mode()
def likelihoods(
    model: Mixture,
    pairs: Sequence[Pair],
    domains: Sequence[str] | None = None,
    mode: RoutingMode | None = None,
) -> list[Likelihood]:
    """Log-likelihood of each answer given its prompt; the router reads the prompt only.

    Args:
        pairs: prompts of at least one token; an answer without tokens has the likelihood 1.
        domains: for each pair the domain to whose experts it is restricted; None lets the router decide.
        mode: how texts, or tokens, are routed; by default the model's own mode.

    Returns:
        the likelihoods, in the order of the pairs.

    Raises:
        NonFiniteScores: if one is NaN.
    """
    model.eval()
    device, names = model.domain_expert_mask.device, [domain.name for domain in model.domains]
    packing = find_packing_mode(model.backbone, require_mask=True)
    trees = _build_trees(pairs, domains, share_prompts=packing is not None)
    scored: dict[int, Likelihood] = {}
    for indices in batch_by_tokens([len(tree) for tree in trees], token_budget(device, model.backbone.dtype)):
        batch = [trees[int(i)] for i in indices]
        pinned = None
        if domains is not None and batch:
            index = torch.tensor([names.index(domains[tree.pairs[0]]) for tree in batch], device=device)  # (B,)
            pinned = allowed_experts(model.domain_expert_mask, index)  # (B, E)
        scored |= _score_batch(model, batch, packing, pinned, mode) if batch else {}
    if any(math.isnan(likelihood.total) for likelihood in scored.values()):
        raise NonFiniteScores("log-likelihood of an answer")
    return [scored[i] for i in range(len(pairs))]


def _build_trees(pairs: Sequence[Pair], domains: Sequence[str] | None, share_prompts: bool) -> list[_PromptTree]:
    """Group answers by their prompt and domain; without `share_prompts`, one tree per pair."""
    groups: dict[tuple[tuple[int, ...], object], list[int]] = {}
    for i, (prompt, _) in enumerate(pairs):
        key = (domains[i] if domains else None) if share_prompts else i
        groups.setdefault((tuple(prompt), key), []).append(i)
    return [
        _PromptTree(prompt, tuple(tuple(pairs[i][1]) for i in members), tuple(members))
        for (prompt, _), members in groups.items()
    ]


def _score_batch(
    model: Mixture,
    trees: Sequence[_PromptTree],
    packing: PackingMode | None,
    pinned: Tensor | None,
    mode: RoutingMode | None,
) -> dict[int, Likelihood]:
    """Likelihoods of the answers of some trees, by the index of their pair."""
    head = model.loaded_backbone.lm_head
    assert head is not None
    device = model.domain_expert_mask.device
    padded = _pad_trees(trees, model.loaded_backbone.tokenizer.pad_token_id)
    ids, positions, branch = (tensor.to(device) for tensor in padded)  # (B, T) each
    inputs: dict[str, Tensor | None] = {"attention_mask": (branch >= 0).long()}
    if packing is not None and int(branch.max()) > 1:
        inputs = packing.branching_inputs(positions, branch, model.backbone.dtype)
    prompt_mask = (branch == 0).long()  # (B, T)
    states = model(ids, router_mask=prompt_mask, allowed=pinned, mode=mode, **inputs).pooled  # (B, T, D)
    row, column = (branch > 0).nonzero(as_tuple=True)  # (N,) each, the tokens of all answers
    starts = positions[row, column] == prompt_mask.sum(1)[row]  # (N,), first tokens: the prompt's last token predicts
    before = torch.where(starts, positions[row, column] - 1, column - 1)  # (N,), the column that predicts each token
    losses, hits = head.token_losses_and_hits(states[row, before][None], ids[row, column][None])  # (N,) each
    order = [i for tree in trees for i in tree.pairs]
    sizes = [len(answer) for tree in trees for answer in tree.answers]
    return {
        i: Likelihood(-float(loss.double().sum()), len(loss), bool(hit.all()))
        for i, loss, hit in zip(order, losses.split(sizes), hits.split(sizes), strict=True)
    }


def _pad_trees(trees: Sequence[_PromptTree], padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, positions and branches, (B, T) each: a prompt, then its answers one by one, padded on the right."""
    shape = len(trees), max(map(len, trees))
    ids, positions, branch = torch.full(shape, padding), torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    for row, tree in enumerate(trees):
        answers = [(number, len(tree.prompt), answer) for number, answer in enumerate(tree.answers, 1)]
        column = 0
        for number, first_position, tokens in [(0, 0, tree.prompt), *answers]:
            columns = slice(column, column + len(tokens))
            ids[row, columns] = torch.tensor(tokens, dtype=torch.long)
            positions[row, columns] = torch.arange(first_position, first_position + len(tokens))
            branch[row, columns] = number
            column += len(tokens)
    return ids, positions, branch
