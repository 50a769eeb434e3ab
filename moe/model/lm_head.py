"""The backbone's own language-model head: states → scores of the vocabulary, and the loss of tokens asked for.

What the states are is `moe.model.mixture`'s; which tokens are asked for, next or masked ones, the batch says.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

LMKind = Literal["causal", "masked"]


class LanguageSettings(BaseModel):
    """What experts learn from plain text by the backbone's own language-model head."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    general: tuple[str, ...] = Field(
        (), description="files of general text, mixed into every role's corpus so that less is forgotten"
    )
    mix: float = Field(0.1, ge=0, lt=1, description="share of general text among a role's training rows")
    held_out: float = Field(
        0.05, gt=0, lt=1, description="last share of each corpus, kept for perplexity; more measures more surely"
    )
    masked: float = Field(0.15, gt=0, lt=1, description="share of tokens that an encoder has to guess")


IGNORE_INDEX = -100
"""A label that is not asked for, transformers' own mark."""
CHUNK_TOKENS = 1024  # tokens whose scores of the whole vocabulary are in memory at once


def lm_kind(config: PretrainedConfig) -> LMKind:
    """What a backbone was made to predict: masked tokens in encoders, the next one in decoders."""
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    return "masked" if masked else "causal"


class LMHead:
    """The frozen head of a whole model, run by that family's own code, so that its norms, caps and scales are in it.

    Args:
        whole: a model with its head, whose base is the backbone that experts lie beside.
    """

    def __init__(self, whole: PreTrainedModel) -> None:
        self.whole = whole.requires_grad_(False).eval()
        self.kind = lm_kind(whole.config)
        self._inside = whole.base_model if self.kind == "masked" else whole.get_decoder()

    def scores(self, states: Tensor) -> Tensor:
        """Scores of the vocabulary, (N, V), of last states (N, D)."""
        with _giving(self._inside, states[None]):
            return self.whole(input_ids=torch.zeros(1, 1, dtype=torch.long, device=states.device)).logits[0]  # (N, V)

    def losses(self, states: Tensor, labels: Tensor) -> Tensor:
        """−log p of each token that is asked for (N,), in fp32 and in the order of the batch.

        A chunk's gradient is made with its scores, which are then let go: memory does not grow with tokens times
        vocabulary, and no score is made twice. So this can be gone back through once, not twice differentiated.

        Args:
            states: (B, T, D), the last states.
            labels: (B, T), the token that each state is to predict, or −100.
        """
        asked = labels != IGNORE_INDEX  # (B, T)
        wanted, given = labels[asked], states[asked]  # (N,), (N, D)
        parts = zip(given.split(CHUNK_TOKENS), wanted.split(CHUNK_TOKENS), strict=True)
        if not torch.is_grad_enabled():
            return torch.cat([self._chunk(*part) for part in parts])  # (N,)
        return torch.cat([_Chunk.apply(self._chunk, *part) for part in parts])  # (N,)

    @torch.no_grad()
    def judged(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """−log p of each token that is asked for, and whether none is more probable there, (N,) each."""
        asked = labels != IGNORE_INDEX  # (B, T)
        parts = zip(states[asked].split(CHUNK_TOKENS), labels[asked].split(CHUNK_TOKENS), strict=True)
        losses, best = zip(*[self._judged(*part) for part in parts], strict=True)
        return torch.cat(losses), torch.cat(best)  # (N,) each

    def _judged(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.scores(states).float()  # (n, V)
        return F.cross_entropy(scores, labels, reduction="none"), scores.argmax(-1) == labels  # (n,) each

    def _chunk(self, states: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.scores(states).float(), labels, reduction="none")  # (N,)


class _Chunk(torch.autograd.Function):
    """Losses (n,) of states (n, D) that are made with their gradient at the states, n · D numbers instead of n · V."""

    @staticmethod
    def forward(ctx: Any, losses: Callable[[Tensor, Tensor], Tensor], states: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            here = states.detach().requires_grad_()
            found = losses(here, labels)  # (n,)
            ctx.save_for_backward(*torch.autograd.grad(found.sum(), here))
        return found.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors  # (n, D)
        return None, gradient * above[:, None].to(gradient.dtype), None


def next_token_labels(ids: Tensor, own: Tensor) -> Tensor:
    """Labels (B, T) of a decoder: at each place the token after it, where `own` (B, T) says it is to be learned."""
    after = torch.full_like(ids, IGNORE_INDEX)  # (B, T)
    after[:, :-1] = torch.where(own[:, 1:].bool(), ids[:, 1:], after[:, 1:])
    return after


@contextmanager
def _giving(module: nn.Module, states: Tensor) -> Iterator[None]:
    """Let a base model return these states (1, N, D) instead of running."""
    own: Callable[..., Any] | None = module.__dict__.get("forward")
    module.forward = lambda *_, **__: BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
