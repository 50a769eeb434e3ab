"""`--to hub-folder`: a mixture with a model card and a license file, ready to upload to the Hugging Face Hub.

The card is built from the files: backbone, experts, numbers of rows, hashes, and metrics of the run's evaluation.
Nothing is uploaded.
"""

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from experts.atomic_io import (
    MANIFEST,
    atomic_folder,
    check_manifest,
    read_json,
    read_manifest,
    sha256_of,
    write_json,
    write_manifest,
    write_text,
)
from experts.cards import EXPERT_CARD, without_folders
from experts.errors import Fault
from experts.expert_io import README, BackboneId
from experts.outputs import check_output_folder
from experts.yaml_io import parse_yaml
from experts.yaml_scalars import dump_yaml
from moe.checkpoints.file_names import CARD, CONFIG
from moe.checkpoints.mixture import read_card
from moe.checkpoints.mixture_card import MixtureCard
from moe.console import info
from moe.data.task_reports import PREPARED, read_task_report
from moe.export.graph import copy_graph
from moe.inference.calibration import CALIBRATION, read_calibration, write_calibration
from moe.inference.graph.spec import GRAPH_FILES
from moe.model.backbone import load_tokenizer
from moe.model.backbone_files import SHIPPED, public_name
from moe.runs.layout import DATA, EVALUATION, METRICS, SAMPLE

LICENSE_FILE = "LICENSE"
CARD_TEMPLATE = Path(__file__).parents[1] / "report/templates" / "model_card.md"
CARD_METRICS = (("accuracy", "accuracy"), ("macro_f1", "f1"))
"""Metrics in the card: name in FinMoE's files, metric type on the Hub."""
UNSPECIFIED_LICENSE = "other"
MODEL_TYPE, TRANSFORMERS_CONFIG = "finmoe", "config.json"


@dataclass(frozen=True)
class MetricCount:
    """Metrics in a model card.

    Args:
        count: their number.
        of: the split that they were measured on: `test`, `validation` or `none`.
    """

    count: int
    of: str


@dataclass(frozen=True)
class HubFolder:
    """A folder for the hub that was written.

    Args:
        figures: the metrics in its card.
        remarks: what to check before uploading it.
    """

    figures: MetricCount
    remarks: Sequence[str]


def write_hub_folder(out: Path, folder: Path, license_id: str | None, overwrite: bool) -> HubFolder:
    """Write the folder atomically.

    Args:
        folder: of a mixture.
        license_id: the Hub's identifier of the license, such as `apache-2.0`; None writes `other`.

    Raises:
        Fault: if `folder` is not an intact mixture, `out` exists and `overwrite` is false, or it cannot be written.
    """
    if (folder / EXPERT_CARD).is_file():
        raise Fault(f"a mixture at {folder}", "a single expert", "use --to peft, which also writes a model card")
    check_output_folder(out, [folder], overwrite)
    card = read_card(folder)
    calibration = read_calibration(folder)
    synthetic = _synthetic_tasks(folder, card)
    metrics, split = _card_metrics(folder, card) if not synthetic else ([], "none")
    with atomic_folder(out, overwrite, unlisted=(CALIBRATION, *GRAPH_FILES)) as temporary:
        names = read_manifest(folder)
        assert isinstance(names, dict)
        for name in names:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, temporary / name)
        _remove_paths(temporary / CONFIG)
        write_text(temporary / LICENSE_FILE, _license_text(card, license_id))
        variables: dict[str, Any] = {
            "title": folder.name,
            "card": card,
            "backbone": hub_name(card.backbone) or f"{public_name(card.backbone.name)} (a folder)",
            "figures": metrics,
            "counts": _data_table(folder, card),
            "rows": split,
            "made_up": synthetic,
            "calibrated": calibration is not None,
        }
        metadata = _card_metadata(folder, card, license_id, metrics)
        write_text(temporary / README, str(ModelCard.from_template(metadata, str(CARD_TEMPLATE), **variables)))
        if not card.language:
            _write_transformers_files(temporary, card)
        write_manifest(temporary, (CALIBRATION, *GRAPH_FILES))  # the files below contain its hash
        if calibration is not None:
            write_calibration(temporary, calibration.tasks, calibration.routing)
        copy_graph(folder, temporary)
    check_manifest(out, "a mixture")
    remarks = list(_remarks(folder, card, license_id, split, synthetic))
    for remark in remarks:
        info(remark)
    return HubFolder(MetricCount(len(metrics), of=split), remarks)


def _write_transformers_files(folder: Path, card: MixtureCard) -> None:
    """Write the config and the tokenizer with which transformers' Auto classes load the mixture; see `moe.api.auto`."""
    labels = dict.fromkeys(label for domain in card.domains for names in domain.tasks.values() for label in names)
    numbered = {str(i): label for i, label in enumerate(labels)}
    config = {
        "model_type": MODEL_TYPE,
        "architectures": ["FinMoEForSequenceClassification"],
        "id2label": numbered,
        "label2id": {label: int(i) for i, label in numbered.items()},
    }
    write_json(folder / TRANSFORMERS_CONFIG, config)
    tokenizer = load_tokenizer(card.backbone_settings)
    tokenizer.model_max_length = card.backbone_settings.resolved_length
    tokenizer.save_pretrained(folder)


def _remove_paths(config: Path) -> None:
    """Shorten the absolute paths in a config to their last part, except the backbone's, by which it is loaded."""
    content = parse_yaml(config.read_text(encoding="utf-8")).value
    shortened = _without_paths(content)
    if shortened == content:
        return
    if name := content.get("backbone", {}).get("name"):
        shortened["backbone"]["name"] = name
    write_text(config, dump_yaml(shortened))


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return without_folders(value) if isinstance(value, str) else value


def _remarks(
    folder: Path, card: MixtureCard, license_id: str | None, split: str, synthetic: Collection[str]
) -> Iterator[str]:
    if license_id is None:
        yield f"no license was given: the card says `{UNSPECIFIED_LICENSE}`; use --license, or edit {LICENSE_FILE}"
    if hub_name(card.backbone) is None:
        name = card.backbone.name
        yield f"the backbone {name!r} is a local folder: others cannot load it, and {CARD} and {CONFIG} name it"
    if synthetic:
        yield f"the rows of {', '.join(synthetic)} are synthetic: the card contains no metrics"
    elif split != "test":
        yield "the run has no evaluation of this model: run moe evaluate for metrics on the test rows"


def _card_metrics(folder: Path, card: MixtureCard) -> tuple[list[EvalResult], str]:
    """Return metrics of the run's evaluation if it is newer than the model, else of its validation, and the split."""
    path = folder.parent / EVALUATION / folder.name / METRICS
    if path.is_file() and path.stat().st_mtime >= (folder / MANIFEST).stat().st_mtime:
        content = read_json(path)
        default = card.routing.choice if card.routing is not None else "soft"
        if content["routing_mode"] == default:  # which users of the card get
            tasks = content["tasks"].items()
            return [result for task, report in tasks for result in _eval_results(task, "test", report)], "test"
    reports = {
        task: {name: card.metrics.get(f"{task}_{name}") for name, _ in CARD_METRICS}
        for domain in card.domains
        for task in domain.tasks
    }
    results = [result for task, report in reports.items() for result in _eval_results(task, "validation", report)]
    return results, "validation" if results else "none"


def _eval_results(task: str, split: str, report: dict[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=task,
            dataset_name=task,
            dataset_split=split,
            metric_type=kind,
            metric_name="macro-F1" if kind == "f1" else kind,
            metric_value=round(float(report[name]), 4),
        )
        for name, kind in CARD_METRICS
        if report.get(name) is not None
    ]


def _card_metadata(
    folder: Path, card: MixtureCard, license_id: str | None, metrics: Sequence[EvalResult]
) -> ModelCardData:
    """Return the card's metadata, which the Hub reads."""
    kind = () if card.language else ("sentiment-analysis",)
    return ModelCardData(
        license=license_id or UNSPECIFIED_LICENSE,
        license_name=None if license_id else "see-license-file",
        license_link=None if license_id else LICENSE_FILE,
        base_model=hub_name(card.backbone),
        library_name="finmoe",
        pipeline_tag="text-generation" if card.language else "text-classification",
        tags=["finance", "finmoe", "lora", "mixture-of-experts", *kind],
        language=_languages(folder, card),
        model_name=folder.name if metrics else None,
        eval_results=list(metrics) or None,
    )


def _synthetic_tasks(folder: Path, card: MixtureCard) -> list[str]:
    """Return the tasks whose rows are those of the synthetic sample, on which no metric is reported."""
    tasks = []
    for domain in card.domains:
        sample = folder.parent / SAMPLE / f"{domain.name}.csv"
        if sample.is_file():
            digest = sha256_of(sample)
            tasks += [task for task in domain.tasks if card.data_sha256.get(task) == digest]
    return tasks


def _prepared_tasks(folder: Path, card: MixtureCard) -> Iterator[tuple[str, Path]]:
    """Yield each task whose prepared data is in the run's folder, and the folder of that data."""
    for domain in card.domains:
        for task in domain.tasks:
            path = folder.parent / DATA / domain.name / task
            if (path / PREPARED).is_file():
                yield task, path


def _languages(folder: Path, card: MixtureCard) -> list[str] | None:
    """Return the language codes in the run's training rows."""
    languages = set()
    for _, path in _prepared_tasks(folder, card):
        languages |= set(DatasetDict.load_from_disk(str(path / "rows"), keep_in_memory=False)["train"].unique("lang"))
    return sorted(language for language in languages if language) or None


def _data_table(folder: Path, card: MixtureCard) -> dict[str, dict[str, Any]]:
    """Return by task the hash of its file and, if the run's data is available, the rows of each split. No text."""
    tasks: dict[str, dict[str, Any]] = {
        task: {"sha256": sha256, "rows": {}} for task, sha256 in card.data_sha256.items()
    }
    for task, path in _prepared_tasks(folder, card):
        report = read_task_report(path)
        if tasks.get(task, {}).get("sha256") == report.sha256:
            tasks[task]["rows"] = {split: size.rows for split, size in report.splits.items()}
    return tasks


def _license_text(card: MixtureCard, license_id: str | None) -> str:
    grant = f"The experts, router and heads in this folder are licensed under: {license_id}."
    if license_id is None:
        grant = """No license has been chosen yet for the experts, router and heads in this folder.
Choose one, and set it in the card's `license` field, before you publish them."""
    backbone = public_name(card.backbone.name)
    return f"""{grant}

Backbone: {backbone}. It is required to use them, is not part of this folder, and has its own license.
Training data: {", ".join(card.data_sha256) or "unnamed"}. Its licenses may restrict the use of models trained on it.

FinMoE, the program that trained and runs them, is licensed under the Apache License 2.0.
"""


_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def hub_name(backbone: BackboneId) -> str | None:
    """Return the backbone's name on the Hub; None for a local folder."""
    name = public_name(backbone.name)
    is_on_hub = backbone.revision is not None or backbone.name == SHIPPED
    return name if _HUB_NAME.fullmatch(name) and is_on_hub else None
