"""Synthetic training logs and run folders, for tests of reports and plots."""

import json
import math
from pathlib import Path
from typing import Any

from result_samples import evaluation, label_metrics

from experts.atomic_io import write_json
from experts.json_io import json_object
from moe.results.ablation import AblationReport, VariantDifference, VariantMetrics, VariantRow
from moe.results.metrics import ScoreMetrics
from moe.runs.training_log import LOG

LABELS = ["negative", "neutral", "positive"]
COUNTS = [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def write_log(folder: Path, *lines: Any) -> Path:
    """Write a log; a string is written as it is, any other line as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / LOG).write_text(text, encoding="utf-8")
    return folder


def step_line(number: int, **figures: Any) -> dict[str, Any]:
    """Log line of a training step."""
    return {"step": number, "loss": 1.0 / number, "epoch": number / 10, **figures}


def evaluation_line(number: int, macro_f1: float) -> dict[str, Any]:
    """Log line of an evaluation of two tasks."""
    tasks = {"eval_news_macro_f1": macro_f1 - 0.1, "eval_forum_macro_f1": macro_f1 + 0.1}
    tasks |= {"eval_news_accuracy": macro_f1, "eval_forum_accuracy": macro_f1 + 0.2}
    return {"step": number, **tasks, "eval_macro_f1": macro_f1, "eval_accuracy": macro_f1 + 0.1, "eval_routing": 0.9}


def joint_lines(steps: int = 20, timed: bool = True) -> list[dict[str, Any]]:
    """Log lines of a joint stage with both levels of DAO, two experts and an evaluation every ten steps."""
    lines: list[dict[str, Any]] = []
    for i in range(1, steps + 1):
        c = 1 + 0.5 * math.sin(i)
        inner = {f"inner/{key}_{name}": c for key in ("lambda", "w", "c") for name in ("classes", "polarity")}
        outer = {f"outer/{k}_{n}": c for k in ("lambda", "w", "c") for n in ("sentiment", "domain", "balance")}
        weights = {"weight/sentiment": 1.0, "weight/domain": 0.2, "weight/balance": 0.1}
        losses = {
            "classes": 1 / i,
            "polarity": 0.5 / i,
            "sentiment": 2 / i,
            "domain": 0.3,
            "balance": 0.1,
            "loss": 3 / i,
        }
        cost = {"seconds": 0.1 * i, "memory_mib": 100.0 + i, "device": "cpu"} if timed else {}
        lines.append(
            {"step": i, "epoch": i / 10, **losses, **inner, **outer, **weights, "share_0": 0.4, "share_1": 0.6} | cost
        )
        if i % 10 == 0:
            lines.append(evaluation_line(i, 0.9 - i / 100))
    return [*lines, {"step": steps, "train_runtime": 30.0, "epoch": steps / 10}]


def write_run(folder: Path, steps: int = 20, timed: bool = True) -> Path:
    """Write a run folder with logs of two experts and the joint stage, a card, a result and a summary."""
    for name in ("news", "forum"):
        write_log(folder / "logs" / name, *joint_lines(steps, timed))
        (folder / "experts" / name).mkdir(parents=True)
    write_log(folder / "logs" / "moe-joint", *joint_lines(steps, timed))
    domains = [{"name": name, "experts": [name]} for name in ("news", "forum")]
    content = {
        "moe-joint/mixture.json": {"domains": domains},
        "result.json": {
            "best": "moe-joint",
            "verdict": "best by validation macro-F1: moe-joint",
            "validation": {"moe-joint": {"news_accuracy": 0.7, "news_macro_f1": 0.6, "accuracy": 0.7, "macro_f1": 0.6}},
        },
        "summary.json": {
            "figures": {"majority": {"news": {"accuracy": 0.3, "macro_f1": 0.2}}},
            "routing": {"accuracy": 1.0, "entropy": 0.1, "table": {"news": {"news": 0.9, "forum": 0.1}}},
        },
        "evaluation/moe-init/metrics.json": evaluation({"news": label_metrics(LABELS, COUNTS)}),
    }
    for name, value in content.items():
        write_text(folder / name, json.dumps(value, default=json_object))
    (folder / "moe-joint" / "config.yaml").write_text("seed: 42\n", encoding="utf-8")
    return folder


def write_text(path: Path, text: str) -> None:
    """Write a file, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_evaluated_run(run: Path, text: str = "profit fell") -> Path:
    """Add an evaluation with every kind of finding to a run: one correct row and one confident error."""
    folder = run / "evaluation" / "moe-joint"
    head = "id,domain,task,text,label,predicted,predicted_routed,confidence,polarity,routing_entropy"
    write_text(folder / "right.csv", f"{head}\n1,news,news,bank held,neutral,neutral,neutral,0.6,0.1,0.2\n")
    write_text(folder / "wrong.csv", f'{head}\n2,news,news,"{text}",negative,positive,positive,0.97,0.5,0.2\n')
    more = "alone.news,alone.forum,probability.news,probability.forum"
    rows = f'1,news,news,bank held,neutral,neutral,neutral,0.6,0.1,0.2,neutral,neutral,0.9,0.5\n2,news,news,"{text}",'
    write_text(
        folder / "alone.csv",
        f"{head},{more}\n{rows}negative,positive,positive,0.97,0.5,0.2,negative,positive,0.8,0.7\n",
    )
    report = evaluation({"news": label_metrics(LABELS, COUNTS)}, {"news": ScoreMetrics(mse=0.2, mae=0.3)})
    write_json(folder / "metrics.json", report)
    splits = {
        "train": {"rows": 9, "labels": {"negative": 3, "neutral": 6}},
        "test": {"rows": 2, "labels": {"neutral": 2}},
    }
    prepared = {"task": "news", "rows": 12, "rejected": 1, "duplicates": 0, "near_duplicates": {}, "splits": splits}
    write_text(run / "data" / "news" / "news" / "prepared.json", json.dumps({"report": prepared}))
    mean, bounds = VariantMetrics(accuracy=0.5, macro_f1=0.4), (-0.2, -0.01)
    gap = VariantDifference(accuracy=-0.1, macro_f1=-0.1, accuracy_interval=bounds, macro_f1_interval=bounds)
    rows_of = [
        VariantRow(name="full", kind="answered", description="all", tasks={}, mean=mean),
        VariantRow(name="without-news", kind="answered", description="", tasks={}, mean=mean, difference=gap),
    ]
    write_json(run / "ablation" / "ablation.json", AblationReport(model="", texts=2, rows=rows_of, chart=""))
    backbone = {"name": "default", "sha256": "ab" * 32}
    domains = [{"name": "news", "experts": ["news"], "tasks": {"news": LABELS}}]
    card = {"backbone": backbone, "domains": domains, "data_sha256": {"news": "cd" * 32}, "gate": {"kind": "soft"}}
    write_text(run / "moe-joint" / "mixture.json", json.dumps(card))
    write_text(run / "moe-joint" / "manifest.json", "{}")
    return run
