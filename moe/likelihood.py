"""How probable a language model finds an answer behind a prompt: Σ log p of its tokens, many pairs at a time.

What is asked is the callers': choices in `moe.exam`, requests of a harness in `moe.harness`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moe.backbone import token_budget
from moe.data.answer_batches import AnswerCollator
from moe.data.batches import by_budget, inputs_of
from moe.model import Mixture, allowed_experts

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


@torch.inference_mode()
def likelihoods(
    model: Mixture, pairs: Sequence[Pair], domains: Sequence[str] | None = None, hard: bool = False
) -> list[Likelihood]:
    """Each answer's likelihood behind its prompt, in order; the router reads the prompt alone.

    Args:
        pairs: a prompt of one token or more each; an answer without tokens has a likelihood of 1.
        domains: pin each pair to the experts of this domain; None leaves it to the router.
    """
    assert model.source.language is not None
    head, device, dtype = model.source.language, model.owners.device, model.backbone.dtype
    names = [domain.name for domain in model.domains]
    collate = AnswerCollator(model.source.tokenizer.pad_token_id, names)
    rows = [{"input_ids": [*prompt, *answer], "begins": len(prompt)} for prompt, answer in pairs]
    found: dict[int, Likelihood] = {}
    model.eval()
    for some in by_budget([len(row["input_ids"]) for row in rows], token_budget(device, dtype)):  # type: ignore[arg-type]
        if not len(some):
            continue
        batch = {name: values.to(device) for name, values in collate([rows[int(i)] for i in some]).items()}
        pinned = None
        if domains is not None:
            index = torch.tensor([names.index(domains[int(i)]) for i in some], device=device)  # (B,)
            pinned = allowed_experts(model.owners, index)  # (B, E)
        states = model(**inputs_of(batch), allowed=pinned, hard=hard).pooled  # (B, T, D)
        losses, best = head.judged(states, batch["tokens"])  # (N,) each
        sizes = [len(pairs[int(i)][1]) for i in some]
        for i, loss, right in zip(some, losses.split(sizes), best.split(sizes), strict=True):
            found[int(i)] = Likelihood(-float(loss.double().sum()), len(loss), bool(right.all()))
    return [found[i] for i in range(len(pairs))]
