"""The engine of models that give labels: texts of several requests in one go, as `moe infer` answers them.

How requests come together is `moe.serve.batching`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experts.errors import Fault
from moe.inference.predictor import Predictor, Routing
from moe.inference.stream import predict_each, to_row
from moe.serve.errors import RequestError, check_known_name

PASSES_PER_BATCH = 4  # of the model, that one batch is by default: texts of like length find each other, and none waits long
BYTES_PER_TOKEN = 4  # a token, about


@dataclass(frozen=True)
class ClassifyRequest:
    """What one request asks: texts, and how all of them are answered; see `moe.inference.stream`."""

    texts: tuple[str, ...]
    domain: str | None = None
    task: str | None = None
    routing: Routing = "soft"
    abstain: float | None = None


class ClassifyEngine:
    """Answers texts with one loaded model.

    Args:
        predictor: of any routing; each request's own is asked.
        model: the SHA-256 that answers are marked with.
        budget: tokens, about, of a batch.
    """

    def __init__(self, predictor: Predictor, model: str, budget: int | None = None) -> None:
        self.predictor, self.model = predictor, model
        self.budget = budget or PASSES_PER_BATCH * predictor.batch_tokens

    def weigh(self, asked: ClassifyRequest) -> int:
        """About how many tokens its texts have, as far as they are read."""
        return sum(min(self.predictor.max_length, 2 + len(text) // BYTES_PER_TOKEN) for text in asked.texts)

    def answer(self, asked: Sequence[ClassifyRequest]) -> list[Any]:
        """A body of an answer for each, or why there is none; what fails together is tried again one by one."""
        results: list[Any] = [None] * len(asked)
        ways: dict[tuple[Routing, float | None], list[int]] = {}
        for place, one in enumerate(asked):
            try:
                self.refuse(one)
            except (RequestError, Fault) as error:
                results[place] = error if isinstance(error, RequestError) else RequestError(409, error)
            else:
                ways.setdefault((one.routing, one.abstain), []).append(place)
        for places in ways.values():
            for place, result in zip(places, self._tried([asked[i] for i in places]), strict=True):
                results[place] = result
        return results

    def refuse(self, one: ClassifyRequest) -> None:
        """Refuse what this model cannot be asked; looked at here, since the model may have changed on the way.

        Raises:
            Refused: for a domain or a task that there is not.
            Fault: for what does not go together, or cannot be reached.
        """
        model = self.predictor.model
        check_known_name("domain", one.domain, [domain.name for domain in model.domains])
        check_known_name("task", one.task, list(model.labels.tasks))
        self.predictor.with_options(one.routing, one.abstain).check(one.task, one.domain)

    def _tried(self, asked: Sequence[ClassifyRequest]) -> list[Any]:
        try:
            return self._together(asked)
        except Exception as error:
            if len(asked) == 1:
                return [error]
            return [result for one in asked for result in self._tried([one])]

    def _together(self, asked: Sequence[ClassifyRequest]) -> list[dict[str, Any]]:
        """Requests of one way of asking, their texts in one go."""
        texts = [text for one in asked for text in one.texts]
        domains = [one.domain for one in asked for _ in one.texts]
        tasks = [one.task for one in asked for _ in one.texts]
        predictor = self.predictor.with_options(asked[0].routing, asked[0].abstain)
        answers, names = predict_each(texts, predictor, domains, tasks), predictor.model.bank.routed_experts
        rows = iter([{"text": text} | to_row(one, names) for text, one in zip(texts, answers, strict=True)])
        return [{"model": self.model, "answers": [next(rows) for _ in one.texts]} for one in asked]
