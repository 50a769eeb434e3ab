"""Why a mixture answered a text as it did: words for and against its label, words for its expert, each expert alone.

Gradients are `moe.explain.integrated_gradients`', answers `moe.inference.stream`'s; a corpus's words are
`moe.explain.lexicon`'s, what a terminal shows `moe.explain.terminal`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experts.errors import Fault
from moe.data.readers import is_encodable
from moe.explain.integrated_gradients import IGPath, TokenAttributions, blank_token, build_paths, integrate, log_odds
from moe.explain.word_spans import Tokenization, tokenize_words
from moe.inference.per_expert import predict_per_expert
from moe.inference.predictor import Prediction, Predictor
from moe.inference.stream import predict_texts, to_row

STEPS = 64
ONE_EXPERT = "one expert alone answers, so there is nothing to route"
FIXED = "the gates are constant, whatever the text"
PINNED = "the text was pinned to one expert"


@dataclass(frozen=True)
class WordWeight:
    """What one word of a text adds to a figure.

    Args:
        word: as the text has it.
        start, end: its place in the text, in characters; the end is not in it.
        weight: in log-odds (natural logarithm); above 0 it speaks for the label or expert, below 0 against it.
    """

    word: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Attribution:
    """The words for and against one label, or one expert.

    Args:
        of: the label or the expert.
        words: in the text's order; what was cut off is missing.
        value: log-odds of the label (or of the expert's soft share) on this text.
        blank: the same on the text with every word blank.
        delta: what the words' sum is off from `value` − `blank`; near 0 where the steps sufficed.
    """

    of: str
    words: tuple[WordWeight, ...]
    value: float
    blank: float
    delta: float


@dataclass(frozen=True)
class Explanation:
    """One text's answer, and why.

    Args:
        text: as given.
        answer: as `moe infer` gives it: label, probabilities, polarity, experts' shares and so on.
        why: the words for and against the label.
        router: the words for and against the expert with the largest share; None where `unrouted` says why not.
        alone: by expert its soft `share`, and the `label` and `probability` that it alone would have given.
        blank: the token that a blank word is.
        steps: of the integral.
    """

    text: str
    answer: dict[str, Any]
    why: Attribution
    router: Attribution | None
    unrouted: str | None
    alone: dict[str, dict[str, Any]]
    blank: str
    steps: int

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def explain(
    predictor: Predictor, text: str, domain: str | None = None, task: str | None = None, steps: int = STEPS
) -> Explanation:
    """Answer a text and say why. Changes nothing, but must not run beside another use of the same model.

    Args:
        predictor: with its routing; a text longer than the model reads is cut, not averaged over windows.
        domain: pins the text to this domain's experts.
        task: the task to answer, by default the routed or pinned one.
        steps: points on the way from the blank text; more are more exact, and take as much longer.

    Raises:
        Fault: when captum is missing, the text has no word, domain or task are unknown, the predictor averages windows,
            or memory runs out.
    """
    check_explainable(predictor, text, domain, task)
    (answer,) = predict_texts([text], predictor, domain, task)
    reading = tokenize_text(predictor, text)
    way = build_paths(predictor, [reading], domain)
    chosen = torch.tensor([answer.labels.index(answer.label)], device=way.ids.device)  # (1,)
    why = integrate(predictor, way, partial(label_log_odds, predictor, answer.task, chosen), steps)
    routed, unrouted = _routed(predictor, way, reading, answer, steps)
    return Explanation(
        text=text,
        answer=to_row(answer, predictor.model.bank.routed_experts),
        why=_reason(answer.label, reading, why),
        router=routed,
        unrouted=unrouted,
        alone=_alone(predictor, text, answer),
        blank=blank_token(predictor),
        steps=steps,
    )


def check_explainable(predictor: Predictor, text: str, domain: str | None, task: str | None) -> None:
    """Refuse what cannot be explained.

    Raises:
        Fault: see `explain`.
    """
    if predictor.windows:
        raise Fault("a model that cuts long texts", "one that averages windows", "explain without windows")
    if not text.strip() or not is_encodable(text):
        raise Fault("a text with words in it", "none" if not text.strip() else "bytes that are no text", "give a text")
    predictor.check(task, domain)


def tokenize_text(predictor: Predictor, text: str) -> Tokenization:
    """A text as the model reads it, word by word."""
    return tokenize_words(text, predictor.tokenizer, predictor.template, predictor.max_length)


def label_log_odds(
    predictor: Predictor, task: str, chosen: Tensor, ids: Tensor, mask: Tensor, allowed: Tensor | None
) -> Tensor:
    """Log-odds (N,) of a label of the task for each text; `chosen` (B,) is repeated over the N = steps · B rows."""
    out, space = predictor.model(ids, mask, allowed=allowed, hard=predictor.hard), predictor.model.labels
    own = torch.tensor(space.mask(task), device=ids.device)  # (K,)
    logits = out.logits[space.head_by_task[task]].float()[:, own] / predictor.temperature(task)  # (N, K)
    return log_odds(logits, chosen.repeat(len(ids) // len(chosen)))  # (N,)


def _expert_odds(predictor: Predictor, expert: Tensor, ids: Tensor, mask: Tensor, allowed: Tensor | None) -> Tensor:
    _, routed = predictor.model.encode_trunk(ids, mask, with_grad=torch.is_grad_enabled())
    assert routed is not None
    shares = routed.probs.clamp(min=torch.finfo(routed.probs.dtype).tiny).log()  # (N, E)
    return log_odds(shares, expert.repeat(len(ids)))  # (N,)


def _routed(
    predictor: Predictor, way: IGPath, reading: Tokenization, answer: Prediction, steps: int
) -> tuple[Attribution | None, str | None]:
    """Words for the most probable of the experts that answered, or why there are none."""
    gate, names = predictor.model.gate, predictor.model.bank.routed_experts
    if way.allowed is None or gate is None or len(names) == 1:
        return None, ONE_EXPERT
    if gate.settings.kind == "fixed":
        return None, FIXED
    held = way.allowed[0].cpu().numpy()  # (E,)
    best = int((answer.routing_weights * held).argmax())
    expert = torch.tensor([best], device=way.ids.device)  # (1,)
    found = integrate(predictor, way, partial(_expert_odds, predictor, expert), steps)
    return _reason(names[best], reading, found), None


def _reason(of: str, reading: Tokenization, found: TokenAttributions) -> Attribution:
    words = word_weights(reading, found.tokens[0].tolist())
    value, blank = float(found.value[0]), float(found.start[0])
    return Attribution(of, words, value, blank, sum(one.weight for one in words) - (value - blank))


def word_weights(reading: Tokenization, tokens: Sequence[float]) -> tuple[WordWeight, ...]:
    """The tokens' figures (T,) summed to the text's words."""
    return tuple(
        WordWeight(reading.word_text(one), one.start, one.end, sum(tokens[place] for place in one.tokens))
        for one in reading.words
    )


def _alone(predictor: Predictor, text: str, answer: Prediction) -> dict[str, dict[str, Any]]:
    found: Mapping[str, Sequence[Prediction]] = predict_per_expert(predictor, [text], [answer.task])
    shares = dict(zip(predictor.model.bank.routed_experts, answer.routing_weights.tolist(), strict=True))
    return {
        name: {"share": shares[name], "label": one.label, "probability": one.confidence}
        for name, (one,) in found.items()
    }
