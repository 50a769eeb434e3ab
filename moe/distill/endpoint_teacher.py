"""A language model behind an OpenAI-compatible endpoint as a teacher.

It chooses among lettered labels. If the server gives the log-probabilities of the letters, one token is enough for soft
labels; otherwise the label is read from the response.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from itertools import repeat

import numpy as np
from rich.markup import escape

from experts.errors import Fault
from moe.augment.backends import Completion, EndpointClient, EndpointConfig, EndpointOptions
from moe.augment.client import complete_all
from moe.augment.filters import strip_thinking
from moe.augment.prompts import marked_text
from moe.console import info
from moe.data.distilled.soft_labels import SoftLabels
from moe.data.distilled.teacher_settings import TeacherSettings
from moe.data.schema import AugmentSettings
from moe.distill.request import TaskRequest, Teacher, TeacherInput, fingerprint_of, no_scores, polarity_of
from moe.extras import check_extra
from moe.qa.answer_parsing import parse_choice

TOP_LOGPROBS = 20
"""Most probable tokens that are requested, the most that OpenAI's API gives."""
NO_LABEL = "no label in the response"
_LETTERS = string.ascii_uppercase
_LETTER = re.compile(r"\W*([A-Z])(?:\W*|\s*[).:][^\n]*)|(?s:.*)\b([A-Z])\W*")
"""A response that is a letter, is a line that begins with one as in `B: neutral`, or ends with one."""
_PLACEHOLDER = re.compile(r"\{(domain|labels|target|text)\}")
_SPACES = string.whitespace + "▁Ġ"
_SMALLEST = 1e-9
_REMEDY = "check the server, then run the same command again: answers that were saved are not requested again"


class EndpointTeacher(Teacher):
    """Answers with a language model's probabilities of the labels' letters, or with the label that it names.

    A text without an answer is a row of NaN: a request that still fails after its retries, or a response without a
    label. `failures` counts them by reason.

    Raises:
        Fault: if the `openai` package is not installed.
    """

    def __init__(self, settings: TeacherSettings) -> None:
        assert settings.endpoint is not None, "a language model needs an endpoint"
        check_extra("augment")
        fingerprint = fingerprint_of(
            kind="endpoint",
            endpoint=settings.endpoint,
            model=settings.model,
            prompt=settings.prompt,
            labels=settings.labels,
            temperature=settings.temperature,
            tokens=settings.max_tokens,
            probability=settings.label_probability,
        )
        super().__init__(f"{settings.model} at {settings.endpoint}", fingerprint)
        self._settings = settings
        self._endpoint = EndpointConfig(
            settings.endpoint, settings.model, settings.key_env, EndpointOptions("endpoint", "model", "key_env")
        )
        self.failures: Counter[str] = Counter()

    def can_answer(self, request: TaskRequest) -> bool:
        """True: `target_prompt` names the entity."""
        return True

    def answer_key(self, request: TaskRequest) -> str:
        """That of every teacher, and the prompt about entities where it is used."""
        key = super().answer_key(request)
        return f"{key}\0{self._settings.target_prompt}" if request.targeted else key

    def answer(
        self, texts: Sequence[str], request: TaskRequest, targets: Sequence[str | None] | None = None
    ) -> SoftLabels:
        """Return soft labels of texts (N); see `Teacher.answer`.

        Raises:
            Fault: if the server refuses the key or the model, is not reachable, or many requests fail in a row, or
                there are more than 26 labels.
        """
        labels = self._offered(request)
        probabilities = np.full((len(texts), len(labels)), np.nan, dtype=np.float32)
        client = EndpointClient(self._endpoint, self._request_settings(), self._logprobs)
        inputs = map(TeacherInput, texts, repeat(None) if targets is None else targets)
        prompts = ((str(row), self._messages(each, request.domain, labels)) for row, each in enumerate(inputs))
        try:
            for row, response in complete_all(
                client, prompts, self._settings.concurrency, remedy=_REMEDY, allow_refused=True
            ):
                probabilities[int(row)] = self._probabilities(response, labels)
        finally:
            client.close()
        scores = polarity_of(probabilities, request.labels) if request.scored else no_scores(len(texts))
        return SoftLabels(probabilities, scores)

    @property
    def _logprobs(self) -> int:
        """Log-probabilities to request: none of a longer response, whose first token may not be the letter."""
        return TOP_LOGPROBS if self._settings.max_tokens == 1 else 0

    def _request_settings(self) -> AugmentSettings:
        names = ("temperature", "max_tokens", "concurrency", "retries", "timeout")
        return AugmentSettings.model_validate({name: getattr(self._settings, name) for name in names})

    def _offered(self, request: TaskRequest) -> list[str]:
        """The names of the task's labels that the language model reads."""
        if len(request.labels) > len(_LETTERS):
            expected = f"at most {len(_LETTERS)} labels for the teacher {self.name}, a letter each"
            raise Fault(expected, f"{len(request.labels)} of task {request.task}", "use a classifier as teacher")
        names = {target: label for label, target in self._settings.labels.items()}
        return [names.get(label, label) for label in request.labels]

    def _messages(self, given: TeacherInput, domain: str, labels: Sequence[str]) -> list[dict[str, str]]:
        choices = "\n".join(f"{letter}: {label}" for letter, label in zip(_LETTERS, labels, strict=False))
        values = {"domain": domain, "labels": choices, "text": marked_text(given.text)}
        if given.target is not None:
            values["target"] = given.target
        template = self._settings.prompt if given.target is None else self._settings.target_prompt
        return [{"role": "user", "content": _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)}]

    def _probabilities(self, response: Completion, labels: Sequence[str]) -> np.ndarray:
        """Probabilities of the labels (K,); NaN without an answer, which is counted."""
        if response.failure:
            return self._no_answer(response.failure, len(labels))
        if (probabilities := letter_probabilities(response.logprobs, len(labels))) is not None:
            return probabilities
        if (label := read_label(response.text, labels)) is None:
            return self._no_answer(NO_LABEL, len(labels))
        certain = self._settings.label_probability if len(labels) > 1 else 1.0
        probabilities = np.full(len(labels), (1 - certain) / max(1, len(labels) - 1))
        probabilities[label] = certain
        return probabilities

    def _no_answer(self, reason: str, count: int) -> np.ndarray:
        if reason not in self.failures:
            info(escape(f"{self.name} gives no answer to some texts: {reason}"))
        self.failures[reason] += 1
        return np.full(count, np.nan)  # (K,)


def letter_probabilities(logprobs: Sequence[tuple[str, float]], count: int) -> np.ndarray | None:
    """Return the probabilities of the first K letters (K,), scaled to sum to 1; None if none is among the tokens.

    Tokens that differ in spaces are added. A letter that is not among the tokens is at most as probable as the
    least probable one and as their missing probability, which is what it gets.

    Args:
        logprobs: the most probable tokens, with the natural logarithms of their probabilities.
        count: K.
    """
    sums = dict.fromkeys(_LETTERS[:count], 0.0)
    tokens = [(token.strip(_SPACES), math.exp(min(value, 0.0))) for token, value in logprobs]
    for token, probability in tokens:
        if token in sums:
            sums[token] += probability
    present = np.array(list(sums.values()))  # (K,)
    if not present.any():
        return None
    absent = present == 0
    rest = max(0.0, 1 - sum(probability for _, probability in tokens)) / max(1, absent.sum())
    present[absent] = max(_SMALLEST, min(rest, min(probability for _, probability in tokens)))
    probabilities: np.ndarray = present / present.sum()
    return probabilities


def read_label(response: str, labels: Sequence[str]) -> int | None:
    """Return the index of the label that a response names by its letter or its name; None if it names none or several.

    Args:
        response: may begin with the model's thinking, which is ignored.
        labels: in the order of their letters.
    """
    text = strip_thinking(response)
    if (label := parse_choice(text, labels)) is not None:
        return list(labels).index(label)
    match = _LETTER.fullmatch(text)
    index = _LETTERS.index(match[1] or match[2]) if match else len(labels)
    return index if index < len(labels) else None
