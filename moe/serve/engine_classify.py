"""Engine for classification models: predicts the texts of several requests in one batch, as `moe infer` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from experts.errors import Fault
from moe.inference.predictor import Prediction, Predictor
from moe.inference.stream import predict_each, to_row
from moe.model.mode import RoutingChoice
from moe.serve.errors import RequestError, check_known_name, unusable_answer

PASSES_PER_BATCH = 4
"""Default batch size in forward passes: enough texts to group by length, few enough that none waits long."""
BYTES_PER_TOKEN = 4  # rough average


@dataclass(frozen=True)
class ClassifyRequest:
    """Texts of one request and how to predict all of them, each for each target; see `moe.inference.stream`.

    Args:
        own_targets: the target of each text or None, instead of `targets`.
        fixed_task: without a task, predict the model's first one that fits for every text, instead of that of the
            domain that the router prefers.
        details: also return `logits` by label, before calibration, and `tokens`, the number of tokens that were read.
    """

    texts: tuple[str, ...]
    domain: str | None = None
    task: str | None = None
    routing: RoutingChoice = "auto"
    abstain: float | None = None
    label_sets: bool = False
    targets: tuple[str, ...] = ()
    own_targets: tuple[str | None, ...] = ()
    fixed_task: bool = False
    details: bool = False

    @property
    def pairs(self) -> list[tuple[str, str | None]]:
        """Each text with each target, or with None; or each with its own."""
        if self.own_targets:
            return list(zip(self.texts, self.own_targets, strict=True))
        return list(product(self.texts, self.targets or (None,)))


class ClassifyEngine:
    """Classifies texts with a loaded model.

    Args:
        predictor: its routing is ignored; every request sets its own.
        model_sha256: SHA-256 of the model's manifest, returned with every response.
        token_budget: approximate number of tokens in a batch; by default `PASSES_PER_BATCH` forward passes.
    """

    def __init__(self, predictor: Predictor, model_sha256: str, token_budget: int | None = None) -> None:
        self.predictor, self.model_sha256 = predictor, model_sha256
        self.token_budget = token_budget or PASSES_PER_BATCH * predictor.batch_tokens

    def estimate_tokens(self, request: ClassifyRequest) -> int:
        """Return the approximate number of tokens of the request's texts after truncation."""
        characters = (len(text) + len(target or "") for text, target in request.pairs)
        longest = self.predictor.max_length * self.predictor.spec.windows
        return sum(min(longest, 2 + count // BYTES_PER_TOKEN) for count in characters)

    def run_batch(self, requests: Sequence[ClassifyRequest]) -> list[Any]:
        """Return a response body or an exception for each request; a batch that fails is retried request by request."""
        results: list[Any] = [None] * len(requests)
        groups: dict[tuple[RoutingChoice, float | None, bool], list[int]] = {}
        for index, request in enumerate(requests):
            try:
                self.check(request)
            except (RequestError, Fault) as error:
                results[index] = error if isinstance(error, RequestError) else RequestError(409, error)
            else:
                groups.setdefault((request.routing, request.abstain, request.label_sets), []).append(index)
        for indices in groups.values():
            for index, result in zip(indices, self._predict_or_retry([requests[i] for i in indices]), strict=True):
                results[index] = result
        return results

    def check(self, request: ClassifyRequest) -> None:
        """Check that this model can serve a request. Done here, since the model may be replaced while a request waits.

        Raises:
            RequestError: 422 if the domain or the task is unknown.
            Fault: if the options do not fit together, the model has no task for targets or no label sets, the target
                accuracy cannot be reached, or details are requested of a task with a score alone.
        """
        spec = self.predictor.spec
        check_known_name("domain", request.domain, [domain.name for domain in spec.domains])
        check_known_name("task", request.task, list(spec.tasks))
        predictor = self.predictor.with_options(request.routing, request.abstain, request.label_sets)
        for targeted in dict.fromkeys(target is not None for _, target in request.pairs):
            task = self._task_of(request, targeted)
            if request.details and task is not None:
                spec.require_labels(task, "an answer of labels")
            predictor.check(task, request.domain, targeted)

    def _task_of(self, request: ClassifyRequest, targeted: bool) -> str | None:
        """The task that predicts a request's texts with or without a target; None leaves it to the router."""
        if request.task is None and request.fixed_task:
            return self.predictor.spec.default_task(request.domain, targeted)
        return request.task

    def _predict_or_retry(self, requests: Sequence[ClassifyRequest]) -> list[Any]:
        try:
            return self._predict(requests)
        except Exception as error:
            if len(requests) == 1:
                return [RequestError(409, error) if isinstance(error, Fault) else error]
            return [result for request in requests for result in self._predict_or_retry([request])]

    def _predict(self, requests: Sequence[ClassifyRequest]) -> list[dict[str, Any]]:
        """Return response bodies of requests that share `routing`, `abstain` and `label_sets`."""
        pairs = [(request, *pair) for request in requests for pair in request.pairs]
        texts, targets = [text for _, text, _ in pairs], [target for *_, target in pairs]
        domains = [request.domain for request, *_ in pairs]
        tasks = [self._task_of(request, target is not None) for request, _, target in pairs]
        first = requests[0]
        predictor = self.predictor.with_options(first.routing, first.abstain, first.label_sets)
        predictions, experts = predict_each(texts, predictor, domains, tasks, targets), predictor.experts
        answers: list[dict[str, Any]] = [
            {"text": text} | to_row(row, experts) for text, row in zip(texts, predictions, strict=True)
        ]
        for answer, prediction, (request, *_) in zip(answers, predictions, pairs, strict=True):
            if "error" in answer:
                raise unusable_answer(str(answer["error"]))
            if request.details:
                answer |= _details(prediction)
        rows = iter(answers)
        return [{"model": self.model_sha256, "answers": [next(rows) for _ in request.pairs]} for request in requests]


def _details(prediction: Prediction) -> dict[str, Any]:
    assert prediction.logits is not None
    logits = {label: round(float(x), 6) for label, x in zip(prediction.labels, prediction.logits, strict=True)}
    return {"logits": logits, "tokens": prediction.tokens}
