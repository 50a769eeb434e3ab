"""The backbone's own language-model head: hidden states → logits over the vocabulary, and token losses."""

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
    """Training of experts on plain text with the backbone's own language-model head."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    general: tuple[str, ...] = Field(
        (), description="files of general text, mixed into every role's corpus to reduce forgetting"
    )
    mix: float = Field(0.1, ge=0, lt=1, description="fraction of general text in a role's training rows")
    held_out: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="last fraction of each corpus, held out for perplexity; more gives a surer estimate",
    )
    masked: float = Field(0.15, gt=0, lt=1, description="fraction of tokens that an encoder has to predict")


IGNORE_INDEX = -100
"""Label of a token without loss, as in transformers."""
CHUNK_TOKENS = 1024  # tokens whose logits over the full vocabulary are in memory at once


def lm_kind(config: PretrainedConfig) -> LMKind:
    """Return what a backbone was pretrained to predict: masked tokens (encoders) or the next one (decoders)."""
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    return "masked" if masked else "causal"


class LMHead:
    """The frozen head of a language model, run by the model family's own code, with its norms, caps and scales.

    Args:
        model: a model with its head, whose base model is the backbone that carries the experts.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.requires_grad_(False).eval()
        self.kind = lm_kind(model.config)
        self._inner = model.base_model if self.kind == "masked" else model.get_decoder()

    def logits(self, states: Tensor) -> Tensor:
        """Map last hidden states (N, D) to logits over the vocabulary (N, V)."""
        with _returning(self._inner, states[None]):
            ids = torch.zeros(1, 1, dtype=torch.long, device=states.device)  # one token; its states are replaced
            logits: Tensor = self.model(input_ids=ids).logits[0]  # (N, V)
            return logits

    def token_losses(self, states: Tensor, labels: Tensor) -> Tensor:
        """Return −log p of each labelled token (N,), in fp32 and in the order of the batch.

        A chunk's gradient is computed together with its logits, which are then freed: memory does not grow with tokens
        times vocabulary, and no logits are computed twice. So the backward pass can run once only, and there is no
        second derivative.

        Args:
            states: (B, T, D), the last hidden states.
            labels: (B, T), the token that each state should predict, or −100.
        """
        labelled = labels != IGNORE_INDEX  # (B, T)
        targets, inputs = labels[labelled], states[labelled]  # (N,), (N, D)
        chunks = zip(inputs.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)
        if not torch.is_grad_enabled():
            return torch.cat([self._chunk_losses(*chunk) for chunk in chunks])  # (N,)
        apply: Callable[..., Tensor] = _ChunkLosses.apply
        return torch.cat([apply(self._chunk_losses, *chunk) for chunk in chunks])  # (N,)

    @torch.no_grad()
    def token_losses_and_hits(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return −log p of each labelled token, and whether it is the most probable one, (N,) each."""
        labelled = labels != IGNORE_INDEX  # (B, T)
        chunks = zip(states[labelled].split(CHUNK_TOKENS), labels[labelled].split(CHUNK_TOKENS), strict=True)
        losses, hits = zip(*[self._chunk_losses_and_hits(*chunk) for chunk in chunks], strict=True)
        return torch.cat(losses), torch.cat(hits)  # (N,) each

    def _chunk_losses_and_hits(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(states).float()  # (n, V)
        return F.cross_entropy(logits, labels, reduction="none"), logits.argmax(-1) == labels  # (n,) each

    def _chunk_losses(self, states: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(states).float(), labels, reduction="none")  # (N,)


class _ChunkLosses(torch.autograd.Function):
    """Losses (n,) of states (n, D), computed with their gradient at the states: n · D numbers instead of n · V."""

    @staticmethod
    def forward(ctx: Any, losses: Callable[[Tensor, Tensor], Tensor], states: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = states.detach().requires_grad_()
            values = losses(leaf, labels)  # (n,)
            ctx.save_for_backward(*torch.autograd.grad(values.sum(), leaf))
        return values.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors  # (n, D)
        return None, gradient * grad_output[:, None].to(gradient.dtype), None


def next_token_labels(ids: Tensor, mask: Tensor) -> Tensor:
    """Return a decoder's labels (B, T): each position's next token, where the mask (B, T) of learned tokens is set."""
    labels = torch.full_like(ids, IGNORE_INDEX)  # (B, T)
    labels[:, :-1] = torch.where(mask[:, 1:].bool(), ids[:, 1:], labels[:, 1:])
    return labels


@contextmanager
def _returning(module: nn.Module, states: Tensor) -> Iterator[None]:
    """Make a base model return these states (1, N, D) instead of running."""
    previous: Callable[..., Any] | None = module.__dict__.get("forward")
    module.forward = lambda *_, **__: BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)
    try:
        yield
    finally:
        del module.forward
        if previous is not None:
            module.forward = previous
