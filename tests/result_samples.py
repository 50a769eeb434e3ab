"""Made-up results, for tests of what shows them."""

from collections.abc import Mapping, Sequence

from moe.results.evaluation import EvaluationReport, RoutingReport
from moe.results.metrics import ClassMetrics, Confusion, LabelMetrics, MeanMetrics, ScoreMetrics

ROUTING = RoutingReport(accuracy=0.95, entropy=0.1, table={"news": {"news": 0.9, "forum": 0.1}})
Interval = tuple[float, float]


def label_metrics(
    labels: Sequence[str],
    counts: Sequence[Sequence[int]],
    accuracy: float = 0.5,
    macro_f1: float = 0.4,
    intervals: tuple[Interval, Interval] = ((0.1, 0.9), (0.1, 0.8)),
) -> LabelMetrics:
    """Metrics of one task with this confusion matrix (K, K + 1), and other values as given, not as they would be."""
    figures = dict.fromkeys(("macro_precision", "macro_recall", "weighted_precision", "weighted_recall"), 0.5)
    return LabelMetrics(
        rows=sum(map(sum, counts)),
        accuracy=accuracy,
        macro_f1=macro_f1,
        weighted_f1=0.5,
        per_class={label: ClassMetrics(precision=0.777, recall=0.87, f1=0.821, support=3) for label in labels},
        confusion=Confusion(labels=list(labels), rows=[list(row) for row in counts]),
        accuracy_interval=intervals[0],
        macro_f1_interval=intervals[1],
        **figures,
    )


def evaluation(
    tasks: Mapping[str, LabelMetrics],
    scores: Mapping[str, ScoreMetrics] | None = None,
    routing: RoutingReport = ROUTING,
) -> EvaluationReport:
    """Report whose mean is that of the first task, and whose rows are all routed to their own domain."""
    first = next(iter(tasks.values()), None)
    mean = first and MeanMetrics(
        accuracy=first.accuracy,
        macro_f1=first.macro_f1,
        accuracy_interval=first.accuracy_interval,
        macro_f1_interval=first.macro_f1_interval,
    )
    return EvaluationReport(
        rows=sum(metrics.rows for metrics in tasks.values()),
        routing_mode="soft",
        tasks=dict(tasks),
        tasks_routed=dict(tasks),
        domains={},
        mean=mean,
        scores=dict(scores or {}),
        routing=routing,
    )
