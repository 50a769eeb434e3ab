"""Engine for classification models: predicts the texts of several requests in one batch, as `moe infer` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from experts.errors import Fault
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_each, to_row
from moe.model.mode import RoutingChoice
from moe.serve.errors import RequestError, check_known_name, unusable_answer

PASSES_PER_BATCH = 4
"""Default batch size in forward passes: enough texts to group by length, few enough that none waits long."""
BYTES_PER_TOKEN = 4  # rough average


@dataclass(frozen=True)
class ClassifyRequest:
    """Texts of one request and how to predict all of them, each for each target; see `moe.inference.stream`."""

    texts: tuple[str, ...]
    domain: str | None = None
    task: str | None = None
    routing: RoutingChoice = "auto"
    abstain: float | None = None
    targets: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[tuple[str, str | None]]:
        """Each text with each target, or with None."""
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
        groups: dict[tuple[RoutingChoice, float | None], list[int]] = {}
        for index, request in enumerate(requests):
            try:
                self.check(request)
            except (RequestError, Fault) as error:
                results[index] = error if isinstance(error, RequestError) else RequestError(409, error)
            else:
                groups.setdefault((request.routing, request.abstain), []).append(index)
        for indices in groups.values():
            for index, result in zip(indices, self._predict_or_retry([requests[i] for i in indices]), strict=True):
                results[index] = result
        return results

    def check(self, request: ClassifyRequest) -> None:
        """Check that this model can serve a request. Done here, since the model may be replaced while a request waits.

        Raises:
            RequestError: 422 if the domain or the task is unknown.
            Fault: if the options do not fit together, the model has no task for targets, or the target accuracy cannot
                be reached.
        """
        spec = self.predictor.spec
        check_known_name("domain", request.domain, [domain.name for domain in spec.domains])
        check_known_name("task", request.task, list(spec.tasks))
        self.predictor.with_options(request.routing, request.abstain).check(
            request.task, request.domain, bool(request.targets)
        )

    def _predict_or_retry(self, requests: Sequence[ClassifyRequest]) -> list[Any]:
        try:
            return self._predict(requests)
        except Exception as error:
            if len(requests) == 1:
                return [RequestError(409, error) if isinstance(error, Fault) else error]
            return [result for request in requests for result in self._predict_or_retry([request])]

    def _predict(self, requests: Sequence[ClassifyRequest]) -> list[dict[str, Any]]:
        """Return response bodies of requests that share `routing` and `abstain`."""
        pairs = [(request, *pair) for request in requests for pair in request.pairs]
        texts, targets = [text for _, text, _ in pairs], [target for *_, target in pairs]
        domains, tasks = [request.domain for request, *_ in pairs], [request.task for request, *_ in pairs]
        predictor = self.predictor.with_options(requests[0].routing, requests[0].abstain)
        predictions, experts = predict_each(texts, predictor, domains, tasks, targets), predictor.experts
        answers = [{"text": text} | to_row(row, experts) for text, row in zip(texts, predictions, strict=True)]
        for answer in answers:
            if "error" in answer:
                raise unusable_answer(str(answer["error"]))
        rows = iter(answers)
        return [{"model": self.model_sha256, "answers": [next(rows) for _ in request.pairs]} for request in requests]
