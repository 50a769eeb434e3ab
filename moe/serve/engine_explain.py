"""Engine for classification models that also explains predictions, with integrated gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from experts.errors import Fault
from experts.json_io import json_object
from moe.explain.explain import STEPS, explain
from moe.explain.integrated_gradients import load_captum
from moe.inference.torch_predictor import TorchPredictor
from moe.model.mode import RoutingChoice
from moe.serve.engine_classify import ClassifyEngine, ClassifyRequest
from moe.serve.errors import RequestError

TOKEN_STEPS, MIN_STEPS = 4096, 8
"""Default number of integration steps times tokens of the text, so that a long text takes no longer; minimum steps."""


@dataclass(frozen=True)
class ExplainRequest:
    """A text, how to predict it, and how precisely to attribute the prediction; see `moe.explain.explain`.

    Args:
        steps: integration steps; None chooses them by the length of the text.
        target: entity of the text that the prediction is about, or None.
    """

    text: str
    domain: str | None = None
    task: str | None = None
    routing: RoutingChoice = "auto"
    steps: int | None = None
    target: str | None = None


class ExplainEngine:
    """Classifies texts with a `ClassifyEngine` and explains its predictions.

    Args:
        classifier: the engine that predicts.
        load_torch: returns the same model with PyTorch, which attributions need; called for the first explanation.
    """

    def __init__(self, classifier: ClassifyEngine, load_torch: Callable[[], TorchPredictor]) -> None:
        self.classifier, self.load_torch = classifier, load_torch

    @cached_property
    def predictor(self) -> TorchPredictor:
        """The model with PyTorch."""
        return self.load_torch()

    @property
    def token_budget(self) -> int:
        """Approximate number of tokens in a batch."""
        return self.classifier.token_budget

    def estimate_tokens(self, request: ClassifyRequest | ExplainRequest) -> int:
        """Return the approximate number of tokens; an explanation fills a batch."""
        if isinstance(request, ExplainRequest):
            return self.token_budget
        return self.classifier.estimate_tokens(request)

    def run_batch(self, requests: Sequence[ClassifyRequest | ExplainRequest]) -> list[Any]:
        """Return a response body or an exception for each request."""
        to_classify = [request for request in requests if not isinstance(request, ExplainRequest)]
        predictions = iter(self.classifier.run_batch(to_classify) if to_classify else [])
        return [
            self._explain(request) if isinstance(request, ExplainRequest) else next(predictions) for request in requests
        ]

    def _explain(self, request: ExplainRequest) -> Any:
        try:
            load_captum()
        except Fault as error:
            return RequestError(501, error)
        to_classify = ClassifyRequest(
            texts=(request.text,),
            domain=request.domain,
            task=request.task,
            routing=request.routing,
            targets=() if request.target is None else (request.target,),
        )
        try:
            self.classifier.check(to_classify)
            predictor = self.predictor.with_options(request.routing)
            tokens = self.classifier.estimate_tokens(to_classify)
            steps = request.steps or max(MIN_STEPS, min(STEPS, TOKEN_STEPS // tokens))
            explanation = explain(predictor, request.text, request.domain, request.task, steps, request.target)
        except RequestError as error:
            return error
        except Fault as error:
            return RequestError(409, error)
        except Exception as error:
            return error
        return {"model": self.classifier.model_sha256} | json_object(explanation)
