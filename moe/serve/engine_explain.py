"""The engine of models that give labels and say why: texts as `moe.serve.engine_classify` answers them, and
explanations.

How explanations are asked and travel is `moe.serve.routes_explain`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experts.errors import Fault
from moe.explain.explain import STEPS, explain
from moe.explain.integrated_gradients import load_captum
from moe.inference.predictor import Routing
from moe.serve.engine_classify import ClassifyRequest, ClassifyEngine
from moe.serve.errors import RequestError

TOKEN_STEPS, MIN_STEPS = 4096, 8
"""Tokens of a text times steps that an explanation has by default, and its least steps: a long text takes no longer."""


@dataclass(frozen=True)
class ExplainRequest:
    """What one request asks: a text, how it is answered, and how exactly its words are weighed; see
    `moe.explain.explain`.

    Args:
        steps: of the integral; None takes as many as suit the text's length.
    """

    text: str
    domain: str | None = None
    task: str | None = None
    routing: Routing = "soft"
    steps: int | None = None


class ExplainEngine:
    """Answers texts as a `ClassifyEngine` does, and tells why.

    Args:
        labels: it; its model is the one that is explained.
    """

    def __init__(self, labels: ClassifyEngine) -> None:
        self.labels = labels

    @property
    def budget(self) -> int:
        """As that of the labels."""
        return self.labels.budget

    def weigh(self, asked: ClassifyRequest | ExplainRequest) -> int:
        """An explanation fills a batch."""
        return self.budget if isinstance(asked, ExplainRequest) else self.labels.weigh(asked)

    def answer(self, asked: Sequence[ClassifyRequest | ExplainRequest]) -> list[Any]:
        """A body of an answer for each, or why there is none."""
        texts = [one for one in asked if not isinstance(one, ExplainRequest)]
        answers = iter(self.labels.answer(texts) if texts else [])
        return [self._why(one) if isinstance(one, ExplainRequest) else next(answers) for one in asked]

    def _why(self, asked: ExplainRequest) -> Any:
        try:
            load_captum()
        except Fault as error:
            return RequestError(501, error)
        way = ClassifyRequest((asked.text,), asked.domain, asked.task, asked.routing)
        try:
            self.labels.refuse(way)
            predictor = self.labels.predictor.with_options(asked.routing)
            steps = asked.steps or max(MIN_STEPS, min(STEPS, TOKEN_STEPS // self.labels.weigh(way)))
            found = explain(predictor, asked.text, asked.domain, asked.task, steps)
        except RequestError as error:
            return error
        except Fault as error:
            return RequestError(409, error)
        except Exception as error:
            return error
        return {"model": self.labels.model} | found.as_json()
