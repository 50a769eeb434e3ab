"""Types of the rows of `moe infer` and `moe generate`.

Rows are dictionaries, since an object for each of millions of rows would take time.
"""

from typing import NotRequired, TypedDict

Row = dict[str, object]
"""A row of a stream: a `text` or a `prompt`, or why it has none (`error`), and columns of other names of any type."""


class PredictionRow(TypedDict):
    """A prediction; numbers are rounded to 6 digits.

    Args:
        label: the label, of a multi-label task all predicted labels with `;` between them; None if the predictor
            abstained, and for a task with a score alone.
        labels: of a multi-label task, the predicted labels; None if the predictor abstained.
        probabilities: of each label, 0 to 1; empty for a task with a score alone.
        polarity: −1 to 1, the score of a task with a score alone; None if the model has none for the task.
        confidence: largest probability; of a multi-label task the product of the probabilities of all its decisions;
            None for a task with a score alone.
        experts: routing weight of each expert, 0 to 1.
        routing_entropy: of the routing weights, in nats.
        truncated: whether the text was cut.
        task: the task of the labels.
        abstained: whether the predictor abstained, if it may.
        label_set: labels of the conformal set, the most probable first, if sets were requested.
        target: entity that the prediction is about, if there is one.
        target_missing: True if the text does not contain the target.
        windows: number of windows that were averaged, if there are several.
        target_truncated: True if the target was too long and was cut.
        unfamiliar: True if the text is far from every domain's training texts.
    """

    label: str | None
    labels: NotRequired[list[str] | None]
    probabilities: dict[str, float]
    polarity: float | None
    confidence: float | None
    experts: dict[str, float]
    routing_entropy: float
    truncated: bool
    task: str
    abstained: NotRequired[bool]
    label_set: NotRequired[list[str]]
    target: NotRequired[str]
    target_missing: NotRequired[bool]
    windows: NotRequired[int]
    target_truncated: NotRequired[bool]
    unfamiliar: NotRequired[bool]


class ExpertColumns(TypedDict):
    """Predictions of each expert on its own for one text.

    Args:
        alone: label by expert.
        probability: confidence by expert, rounded to 6 digits.
    """

    alone: dict[str, str]
    probability: dict[str, float]
