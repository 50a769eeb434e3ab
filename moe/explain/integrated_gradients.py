"""Integrated gradients over the word embeddings of a mixture: what each token of a text adds to a figure of its answer.

Sundararajan, Taly and Yan (2017), by captum. Which figure it is, and whose words the tokens are, is
`moe.explain.explain`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from experts.errors import Fault
from moe.explain.word_spans import Tokenization
from moe.extras import require
from moe.inference.predictor import Predictor
from moe.profiling import oom_guard

if TYPE_CHECKING:
    from captum.attr import IntegratedGradients

BACKWARD_MEMORY_FACTOR = 4
"""A pass with its way back holds about so many times the memory of one without."""


@dataclass(frozen=True)
class IGPath:
    """Texts (B), each on the way from its blank self to itself.

    Args:
        ids: (B, T).
        mask: (B, T), 0 at padding.
        blank: (B, T), the ids with every token of a word replaced.
        allowed: (B, E) bool, the experts that the text is held to; None for a constant route.
    """

    ids: Tensor
    mask: Tensor
    blank: Tensor
    allowed: Tensor | None


TargetFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Ids (N, T), mask (N, T) and allowed experts (N, E) → a figure of each (N,)."""


@dataclass(frozen=True)
class TokenAttributions:
    """What came of it: `tokens` (B, T) add up to `value` − `start`, (B,) each, as exactly as the steps allow."""

    tokens: Tensor
    value: Tensor
    start: Tensor


def load_captum() -> "type[IntegratedGradients]":
    """Captum's integrated gradients.

    Raises:
        Fault: when captum is not installed.
    """
    attribution: type[IntegratedGradients] = require("captum.attr", "explain").IntegratedGradients
    return attribution


def blank_token(predictor: Predictor) -> str:
    """The token that stands for no word: the tokenizer's mask, else its padding.

    Raises:
        Fault: when it has neither.
    """
    tokenizer = predictor.tokenizer
    for token in (tokenizer.mask_token, tokenizer.pad_token):
        if token is not None:
            return str(token)
    raise Fault("a tokenizer with a mask or padding token", "neither", "use another backbone")


def build_paths(predictor: Predictor, readings: Sequence[Tokenization], domain: str | None) -> IGPath:
    """The way of each text, the experts held that it is answered by.

    Where gates are chosen and not blended (hard, team, top-k), a choice has no slope: the text's own is kept all along.

    Args:
        domain: whose experts alone answer, None for the router's.
    """
    ids, mask = predictor.pad([one.ids for one in readings], torch.arange(len(readings)).numpy())
    own = torch.zeros_like(ids, dtype=torch.bool)  # (B, T)
    for row, one in enumerate(readings):
        own[row, [place for word in one.words for place in word.tokens]] = True
    blank_id = int(str(predictor.tokenizer.convert_tokens_to_ids(blank_token(predictor))))
    blank = ids.masked_fill(own, blank_id)  # (B, T)
    pinned = predictor.pinned_experts([domain] * len(readings)) if domain else None  # (B, E)
    _, routed = predictor.model.encode_trunk(ids, mask, allowed=pinned, hard=predictor.hard)
    return IGPath(ids, mask, blank, routed.gates > 0 if routed else None)


def integrate(predictor: Predictor, way: IGPath, measure: TargetFunction, steps: int) -> TokenAttributions:
    """Integrate the figure's gradient along straight lines between the embeddings of blank and text.

    All other tokens (special ones, the template's) are alike at both ends and add nothing.

    Raises:
        Fault: when captum is missing, or memory runs out.
    """
    method, model = load_captum(), predictor.model
    layer = model.backbone.get_input_embeddings()
    with torch.no_grad():
        text, blank = (layer(ids).float() for ids in (way.ids, way.blank))  # (B, T, D)

    def figure(states: Tensor, ids: Tensor, mask: Tensor, allowed: Tensor | None) -> Tensor:
        with _embedded(layer, states):
            return measure(ids, mask, allowed)  # (N,)

    rest: tuple[Any, ...] = (way.ids, way.mask, way.allowed)
    at_once = max(len(way.ids), predictor.batch_tokens // (BACKWARD_MEMORY_FACTOR * way.ids.shape[1]))
    model.eval()
    with _frozen(model), oom_guard("lower --batch-tokens"):
        with torch.no_grad():
            value, start = figure(text, *rest), figure(blank, *rest)  # (B,)
        shares = method(figure).attribute(
            text, blank, additional_forward_args=rest, n_steps=steps, internal_batch_size=at_once
        )
    return TokenAttributions(shares.sum(-1).detach(), value, start)  # (B, T)


def log_odds(logits: Tensor, chosen: Tensor) -> Tensor:
    """Log-odds (N,) of a column (N,) of logits, or of logarithms of shares, (N, K) against all the others."""
    mine = torch.zeros_like(logits, dtype=torch.bool).scatter(1, chosen[:, None], True)  # (N, K)
    others = logits.masked_fill(mine, float("-inf")).logsumexp(1)  # (N,)
    return logits.gather(1, chosen[:, None])[:, 0] - others  # (N,)


@contextmanager
def _embedded(layer: nn.Module, states: Tensor) -> Iterator[None]:
    """Have the embedding layer answer with these states (N, T, D), whatever it is asked."""
    hook = layer.register_forward_hook(lambda _, __, output: states.to(output.dtype))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No weight asks for a gradient while it lasts: only the embeddings' is wanted."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
