"""Integrated gradients over word embeddings (Sundararajan, Taly and Yan, 2017), computed by captum."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from experts.errors import Fault
from moe.explain.word_spans import Tokenization
from moe.extras import require
from moe.inference.finite import NonFiniteScores
from moe.inference.torch_predictor import TorchPredictor
from moe.profiling import oom_guard

if TYPE_CHECKING:
    from captum.attr import IntegratedGradients

BACKWARD_MEMORY_FACTOR = 4
"""Approximate memory of a forward and backward pass, as a multiple of that of a forward pass."""


@dataclass(frozen=True)
class IGPath:
    """Integration paths of B texts, each from its blank text (the baseline) to the text itself.

    Args:
        ids: (B, T).
        mask: (B, T), 0 at padding.
        blank: (B, T), the ids with the tokens of all words replaced by the blank token.
        allowed: (B, E) bool, the experts that the text is restricted to; None for a constant route.
    """

    ids: Tensor
    mask: Tensor
    blank: Tensor
    allowed: Tensor | None


TargetFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Ids (N, T), mask (N, T) and allowed experts (N, E) → the attributed value of each (N,)."""


@dataclass(frozen=True)
class TokenAttributions:
    """Attributions of tokens; they add up to `value` − `baseline` as accurately as the number of steps allows.

    Args:
        tokens: (B, T).
        value: target function of the texts (B,).
        baseline: target function of the blank texts (B,).
    """

    tokens: Tensor
    value: Tensor
    baseline: Tensor


def load_captum() -> "type[IntegratedGradients]":
    """Import captum's integrated gradients.

    Raises:
        Fault: if captum is not installed.
    """
    attribution: type[IntegratedGradients] = require("captum.attr", "explain").IntegratedGradients
    return attribution


def blank_token(predictor: TorchPredictor) -> str:
    """Return the token that replaces words in the blank text: the tokenizer's mask token, else its padding token.

    Raises:
        Fault: if the tokenizer has neither.
    """
    tokenizer = predictor.tokenizer
    for token in (tokenizer.mask_token, tokenizer.pad_token):
        if token is not None:
            return str(token)
    raise Fault("a tokenizer with a mask or padding token", "neither", "use another backbone")


def build_paths(predictor: TorchPredictor, tokenizations: Sequence[Tokenization], domain: str | None) -> IGPath:
    """Build the path of each text, restricted to the experts that the text itself is routed to.

    Hard, team and top-k gates select experts, and a selection has no gradient; so the text's own selection is kept
    along the whole path.

    Args:
        predictor: with its routing.
        tokenizations: texts to explain.
        domain: use only this domain's experts; None lets the router decide.
    """
    ids, mask = predictor.pad([text.ids for text in tokenizations], torch.arange(len(tokenizations)).numpy())
    in_word = torch.zeros_like(ids, dtype=torch.bool)  # (B, T)
    for row, text in enumerate(tokenizations):
        in_word[row, [token for word in text.words for token in word.tokens]] = True
    blank_id = int(str(predictor.tokenizer.convert_tokens_to_ids(blank_token(predictor))))
    blank = ids.masked_fill(in_word, blank_id)  # (B, T)
    pinned = predictor.pinned_experts([domain] * len(tokenizations)) if domain else None  # (B, E)
    _, routed = predictor.model.encode_trunk(ids, mask, allowed=pinned, mode=predictor.mode)
    return IGPath(ids, mask, blank, routed.gates > 0 if routed else None)


def integrate(predictor: TorchPredictor, path: IGPath, target: TargetFunction, steps: int) -> TokenAttributions:
    """Integrate the target's gradient along straight lines from the embeddings of the blank text to those of the text.

    Tokens outside words (special ones, the template's) are equal at both ends and contribute nothing.

    Args:
        predictor: its model is explained.
        path: texts and their blank texts.
        target: function to attribute.
        steps: integration steps; more are more accurate and take proportionally longer.

    Raises:
        Fault: if captum is missing, memory runs out, or an attribution is not finite (`NonFiniteScores`).
    """
    method, model = load_captum(), predictor.model
    layer = model.backbone.get_input_embeddings()
    with torch.no_grad():
        text, blank = (layer(ids).float() for ids in (path.ids, path.blank))  # (B, T, D)

    def target_of(states: Tensor, ids: Tensor, mask: Tensor, allowed: Tensor | None) -> Tensor:
        with _embedding_output(layer, states):
            return target(ids, mask, allowed)  # (N,)

    rest: tuple[Any, ...] = (path.ids, path.mask, path.allowed)
    batch_size = max(len(path.ids), predictor.batch_tokens // (BACKWARD_MEMORY_FACTOR * path.ids.shape[1]))
    model.eval()
    with _without_weight_gradients(model), oom_guard("lower --batch-tokens"):
        with torch.no_grad():
            value, baseline = target_of(text, *rest), target_of(blank, *rest)  # (B,)
        attributions = method(target_of).attribute(
            text, blank, additional_forward_args=rest, n_steps=steps, internal_batch_size=batch_size
        )
    by_token = attributions.sum(-1).detach()  # (B, T)
    if not bool(by_token.isfinite().all()):
        raise NonFiniteScores("attributions")
    return TokenAttributions(by_token, value, baseline)


@contextmanager
def _embedding_output(layer: nn.Module, states: Tensor) -> Iterator[None]:
    """Make the embedding layer return these states (N, T, D), whatever its input."""
    hook = layer.register_forward_hook(lambda _, __, output: states.to(output.dtype))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _without_weight_gradients(model: nn.Module) -> Iterator[None]:
    """Disable gradients of all weights within the block: only those of the embeddings are needed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
