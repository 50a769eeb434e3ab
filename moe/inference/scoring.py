"""How probable a language model finds an answer behind a prompt: Σ log p of its tokens, many pairs at a time.

A prompt is read once for all its answers, where the backbone can keep these from each other. What is asked is the
callers': choices in `moe.qa`, requests of a harness in `moe.lm_eval`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe.data.sampler import batch_by_tokens
from moe.model.backbone import token_budget
from moe.model.mixture import Mixture, allowed_experts
from moe.model.packing import PackingMode, find_packing_mode

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of what follows it."""


@dataclass(frozen=True)
class Likelihood:
    """Of one answer.

    Args:
        total: Σ log p of its tokens.
        tokens: how many they are.
        greedy: whether each is the most probable one in its place.
    """

    total: float
    tokens: int
    greedy: bool

    @property
    def mean(self) -> float:
        """Log p a token, so that a longer answer is not worse for its length."""
        return self.total / max(1, self.tokens)


@dataclass(frozen=True)
class _Tree:
    """A prompt, and the answers behind it with their places among the pairs."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    pairs: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))


@torch.inference_mode()
def likelihoods(
    model: Mixture, pairs: Sequence[Pair], domains: Sequence[str] | None = None, hard: bool = False
) -> list[Likelihood]:
    """Each answer's likelihood behind its prompt, in order; the router reads the prompt alone.

    Args:
        pairs: a prompt of one token or more each; an answer without tokens has a likelihood of 1.
        domains: pin each pair to the experts of this domain; None leaves it to the router.
    """
    model.eval()
    device, names = model.domain_expert_mask.device, [domain.name for domain in model.domains]
    way = find_packing_mode(model.backbone, require_mask=True)
    trees = _trees(pairs, domains, way is not None)
    found: dict[int, Likelihood] = {}
    for some in batch_by_tokens([len(tree) for tree in trees], token_budget(device, model.backbone.dtype)):
        batch = [trees[int(i)] for i in some]
        pinned = None
        if domains is not None and batch:
            index = torch.tensor([names.index(domains[tree.pairs[0]]) for tree in batch], device=device)  # (B,)
            pinned = allowed_experts(model.domain_expert_mask, index)  # (B, E)
        found |= _of(model, batch, way, pinned, hard) if batch else {}
    return [found[i] for i in range(len(pairs))]


def _trees(pairs: Sequence[Pair], domains: Sequence[str] | None, shared: bool) -> list[_Tree]:
    """Answers gathered behind the prompt, and domain, that they share; each by itself where that cannot be run."""
    groups: dict[tuple[tuple[int, ...], object], list[int]] = {}
    for i, (prompt, _) in enumerate(pairs):
        groups.setdefault((tuple(prompt), (domains[i] if domains else None) if shared else i), []).append(i)
    return [
        _Tree(prompt, tuple(tuple(pairs[i][1]) for i in members), tuple(members))
        for (prompt, _), members in groups.items()
    ]


def _of(
    model: Mixture, trees: Sequence[_Tree], way: PackingMode | None, pinned: Tensor | None, hard: bool
) -> dict[int, Likelihood]:
    """The likelihoods of some trees' answers, by pair."""
    assert model.loaded_backbone.lm_head is not None
    device = model.domain_expert_mask.device
    ids, places, branch = (part.to(device) for part in _laid_out(trees, model.loaded_backbone.tokenizer.pad_token_id))
    told: dict[str, Tensor | None] = {"attention_mask": (branch >= 0).long()}
    if way is not None and int(branch.max()) > 1:
        told = way.branching_inputs(places, branch, model.backbone.dtype)
    read = (branch == 0).long()  # (B, T)
    states = model(ids, router_mask=read, allowed=pinned, hard=hard, **told).pooled  # (B, T, D)
    row, at = (branch > 0).nonzero(as_tuple=True)  # (N,) each, every answer's tokens
    starts = places[row, at] == read.sum(1)[row]  # (N,), where an answer begins: foreseen by the prompt's last token
    before = torch.where(starts, places[row, at] - 1, at - 1)  # (N,)
    losses, best = model.loaded_backbone.lm_head.token_losses_and_hits(states[row, before][None], ids[row, at][None])  # (N,) each
    order = [i for tree in trees for i in tree.pairs]
    sizes = [len(answer) for tree in trees for answer in tree.answers]
    return {
        i: Likelihood(-float(loss.double().sum()), len(loss), bool(right.all()))
        for i, loss, right in zip(order, losses.split(sizes), best.split(sizes), strict=True)
    }


def _laid_out(trees: Sequence[_Tree], padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, places and branches, (B, T) each: the prompt, then its answers one after the other, padded on the right."""
    shape = len(trees), max(map(len, trees))
    ids, places, branch = torch.full(shape, padding), torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    for row, tree in enumerate(trees):
        parts = [(0, 0, tree.prompt), *((n, len(tree.prompt), one) for n, one in enumerate(tree.answers, 1))]
        at = 0
        for number, start, tokens in parts:
            here = slice(at, at + len(tokens))
            ids[row, here] = torch.tensor(tokens, dtype=torch.long)
            places[row, here] = torch.arange(start, start + len(tokens))
            branch[row, here] = number
            at += len(tokens)
    return ids, places, branch
