"""Explanation of one prediction: words for and against the label, words behind the routing, and each expert alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from experts.errors import Fault
from experts.json_io import OMIT_NONE
from moe.data.text_checks import check_targets, is_encodable
from moe.explain.integrated_gradients import IGPath, TokenAttributions, blank_token, build_paths, integrate
from moe.explain.word_spans import Tokenization, tokenize_words
from moe.inference.per_expert import predict_per_expert
from moe.inference.predictor import Prediction
from moe.inference.rows import PredictionRow
from moe.inference.stream import predict_texts, to_row
from moe.inference.torch_predictor import TorchPredictor
from moe.kinds.registry import task_kind

STEPS = 64
SCORE_NAME = "score"
ONE_EXPERT = "a single expert makes the prediction, so nothing is routed"
FIXED = "the gates are constant, so no word affects the routing"


@dataclass(frozen=True)
class WordWeight:
    """Attribution of one word.

    Args:
        word: as written in the text.
        start: offset of its first character in the text.
        end: offset after its last character.
        weight: in log-odds (natural logarithm); positive supports the label or expert, negative opposes it. Of a score,
            in units of the score; positive raises it.
    """

    word: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Attribution:
    """Word attributions for one label, for a score, or for one expert.

    Args:
        of: the label or the expert; `SCORE_NAME` for the score of a task with a score alone.
        words: in the order of the text, without truncated ones.
        value: log-odds of the label (or of the expert's soft routing weight), or the score, for this text.
        blank: the same for the text with every word replaced by the blank token.
        delta: sum of the words' weights minus (`value` − `blank`); near 0 if there were enough steps.
    """

    of: str
    words: tuple[WordWeight, ...]
    value: float
    blank: float
    delta: float


@dataclass(frozen=True)
class ExpertAlone:
    """Prediction of one expert on its own.

    Args:
        share: soft routing weight of the expert, 0 to 1.
        label: of its prediction; None for a task with a score alone.
        probability: of the label, 0 to 1; likewise.
        score: of a task with a score alone, −1 to 1.
    """

    share: float
    label: str | None
    probability: float | None
    score: float | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True)
class Explanation:
    """A prediction and its explanation.

    Args:
        text: as given.
        answer: the row that `moe infer` returns: label, probabilities, polarity, routing weights and so on.
        why: attributions for the label, of a multi-label task for the most probable one; or for the score.
        router: attributions for the expert with the largest routing weight, or None.
        unrouted: why `router` is None.
        alone: prediction of each expert on its own.
        blank: token that replaces words in the blank text.
        steps: integration steps.
        target: entity that the prediction is about, or None; its words are not attributed.
    """

    text: str
    answer: PredictionRow
    why: Attribution
    router: Attribution | None
    unrouted: str | None
    alone: Mapping[str, ExpertAlone]
    blank: str
    steps: int
    target: str | None = field(default=None, metadata=OMIT_NONE)


def explain(
    predictor: TorchPredictor,
    text: str,
    domain: str | None = None,
    task: str | None = None,
    steps: int = STEPS,
    target: str | None = None,
) -> Explanation:
    """Predict a text and explain the prediction.

    The model is unchanged afterwards, but must not be used by another thread while this function runs.

    Args:
        predictor: model and routing; a text longer than the model reads is truncated, not averaged over windows.
        text: the text to explain.
        domain: use only this domain's experts.
        task: the task to predict; by default that of the pinned domain or of the routing.
        steps: integration steps between the blank text and the text; more are more accurate and take proportionally
            longer.
        target: entity of the text that the prediction is about; the blank text has it, too.

    Raises:
        Fault: if captum is missing, the text or target is empty, the domain or task is unknown, the model has no task
            for the target, the predictor averages windows, or memory runs out.
    """
    check_explainable(predictor, text, domain, task, target)
    (prediction,) = predict_texts([text], predictor, domain, task, [target])
    tokenization = tokenize_text(predictor, text, target)
    path = build_paths(predictor, [tokenization], domain)
    if prediction.has_labels:
        label, of = prediction.most_probable, prediction.labels[prediction.most_probable]
        index = torch.tensor([label], device=path.ids.device)  # (1,)
        attributions = integrate(predictor, path, partial(label_log_odds, predictor, prediction.task, index), steps)
    else:
        of, attributions = SCORE_NAME, integrate(predictor, path, partial(_score, predictor), steps)
    router, unrouted = _explain_routing(predictor, path, tokenization, prediction, steps)
    return Explanation(
        text=text,
        answer=to_row(prediction, predictor.model.bank.routed_experts),
        why=_to_attribution(of, tokenization, attributions),
        router=router,
        unrouted=unrouted,
        alone=_experts_alone(predictor, text, prediction),
        blank=blank_token(predictor),
        steps=steps,
        target=target,
    )


def check_explainable(
    predictor: TorchPredictor, text: str, domain: str | None, task: str | None, target: str | None = None
) -> None:
    """Check that a text can be explained.

    Raises:
        Fault: see `explain`.
    """
    if predictor.windows:
        raise Fault(
            "a predictor that truncates long texts",
            "one that averages windows",
            "create the predictor with windows=False",
        )
    if not text.strip() or not is_encodable(text):
        problem = "an empty text" if not text.strip() else "characters that cannot be encoded as UTF-8"
        raise Fault("a text that contains words", problem, "use another text")
    if target is not None:
        check_targets([target])
    predictor.check(task, domain, target is not None)


def tokenize_text(predictor: TorchPredictor, text: str, target: str | None = None) -> Tokenization:
    """Tokenize a text as the predictor does, aligned with its words; a target follows and has no words."""
    return tokenize_words(text, predictor.tokenizer, predictor.template, predictor.max_length, target)


def label_log_odds(
    predictor: TorchPredictor, task: str, labels: Tensor, ids: Tensor, mask: Tensor, allowed: Tensor | None
) -> Tensor:
    """Log-odds (N,) of one of the task's labels for each text, with `labels` (B,) repeated over N = steps · B rows."""
    out, spec = predictor.model(ids, mask, allowed=allowed, mode=predictor.mode), predictor.spec.tasks[task]
    assert spec.head is not None
    logits = out.logits[spec.head].float()[:, list(spec.columns)] / predictor.temperature(task)  # (N, K)
    return task_kind(spec.kind).log_odds(logits, labels.repeat(len(ids) // len(labels)))  # (N,)


def _score(predictor: TorchPredictor, ids: Tensor, mask: Tensor, allowed: Tensor | None) -> Tensor:
    """Output of the polarity head (N,)."""
    polarity: Tensor | None = predictor.model(ids, mask, allowed=allowed, mode=predictor.mode).polarity
    assert polarity is not None  # `Predictor.check` refuses a model without the head
    return polarity.float()


def _expert_log_odds(
    predictor: TorchPredictor, expert: Tensor, ids: Tensor, mask: Tensor, allowed: Tensor | None
) -> Tensor:
    _, routed = predictor.model.encode_trunk(ids, mask, with_grad=torch.is_grad_enabled())
    assert routed is not None
    log_probs = routed.probs.clamp(min=torch.finfo(routed.probs.dtype).tiny).log()  # (N, E)
    return task_kind().log_odds(log_probs, expert.repeat(len(ids)))  # (N,)


def _explain_routing(
    predictor: TorchPredictor, path: IGPath, tokenization: Tokenization, prediction: Prediction, steps: int
) -> tuple[Attribution | None, str | None]:
    """Attributions for the allowed expert with the largest routing weight, or why there are none."""
    gate, names = predictor.model.gate, predictor.model.bank.routed_experts
    if path.allowed is None or gate is None or len(names) == 1:
        return None, ONE_EXPERT
    if gate.settings.kind == "fixed":
        return None, FIXED
    allowed = path.allowed[0].cpu().numpy()  # (E,)
    best = int((prediction.routing_weights * allowed).argmax())
    expert = torch.tensor([best], device=path.ids.device)  # (1,)
    attributions = integrate(predictor, path, partial(_expert_log_odds, predictor, expert), steps)
    return _to_attribution(names[best], tokenization, attributions), None


def _to_attribution(of: str, tokenization: Tokenization, attributions: TokenAttributions) -> Attribution:
    words = word_weights(tokenization, attributions.tokens[0].tolist())
    value, blank = float(attributions.value[0]), float(attributions.baseline[0])
    delta = sum(word.weight for word in words) - (value - blank)
    return Attribution(of=of, words=words, value=value, blank=blank, delta=delta)


def word_weights(tokenization: Tokenization, tokens: Sequence[float]) -> tuple[WordWeight, ...]:
    """Sum the tokens' attributions (T,) by word."""
    return tuple(
        WordWeight(
            word=tokenization.word_text(word),
            start=word.start,
            end=word.end,
            weight=sum(tokens[index] for index in word.tokens),
        )
        for word in tokenization.words
    )


def _experts_alone(predictor: TorchPredictor, text: str, prediction: Prediction) -> dict[str, ExpertAlone]:
    predictions: Mapping[str, Sequence[Prediction]] = predict_per_expert(
        predictor, [text], [prediction.task], [prediction.target]
    )
    weights = dict(zip(predictor.model.bank.routed_experts, prediction.routing_weights.tolist(), strict=True))
    return {
        name: ExpertAlone(share=weights[name], label=alone.label, probability=alone.confidence)
        if alone.has_labels
        else ExpertAlone(share=weights[name], label=None, probability=None, score=alone.polarity)
        for name, (alone,) in predictions.items()
    }
