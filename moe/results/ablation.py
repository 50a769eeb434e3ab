"""Results of `moe ablate`."""

from pydantic import Field

from moe.results.base import Bounds, Result


class VariantMetrics(Result):
    """Accuracy and macro-F1 of a variant, 0 to 1; free answers have no classes, so their accuracy stands for both."""

    accuracy: float
    macro_f1: float


class VariantDifference(Result):
    """Mean metrics of a variant minus those of the full mixture, in [−1, 1], paired by text, with 95 % intervals."""

    accuracy: float
    macro_f1: float
    accuracy_interval: Bounds
    macro_f1_interval: Bounds


class VariantRecord(Result):
    """A variant, as `moe ablate --list` prints it.

    Args:
        name: of the variant.
        kind: `answered` with the weights of the mixture, or `retrained`.
        description: what the variant shows (`says` in JSON).
    """

    name: str
    kind: str
    description: str = Field(alias="says")


class VariantRow(VariantRecord):
    """Metrics of a variant.

    Args:
        tasks: metrics by task.
        mean: over tasks; None without questions to a language model.
        perplexity: of a language model on the held-out text of each domain.
        difference: from the full mixture, which has none itself.
    """

    tasks: dict[str, VariantMetrics]
    mean: VariantMetrics | None
    perplexity: dict[str, float] = Field(default_factory=dict)
    difference: VariantDifference | None = None


class AblationReport(Result):
    """Metrics of a mixture and its variants, the content of `ablation.json`.

    Args:
        model: folder of the mixture.
        texts: number of test texts, or of questions to a language model.
        rows: of the variants, the full mixture first.
        chart: path of the chart.
    """

    model: str
    texts: int
    rows: list[VariantRow]
    chart: str
