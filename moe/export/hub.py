"""`--to hub-folder`: a mixture with a model card and a licence note, ready for the hub's own client to upload.

The card tells what the files themselves say: backbone, experts, rows and hashes, and figures of the run's evaluation.
Nothing is uploaded here.
"""

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from experts.atomic_io import (
    MANIFEST,
    check_manifest,
    read_manifest,
    read_json,
    sha256_of,
    atomic_folder,
    write_manifest,
    write_text,
)
from experts.errors import Fault
from experts.expert_io import CARD as EXPERT_CARD
from experts.expert_io import README, BackboneId
from moe.checkpoints.mixture import CONFIG, read_card
from moe.checkpoints.mixture_card import MixtureCard
from moe.console import info
from moe.data.prepare import PREPARED
from moe.inference.calibration import CALIBRATION, read_calibration, write_calibration
from moe.model.backbone import SHIPPED

LICENSE_FILE, CARD_TEMPLATE = "LICENSE", Path(__file__).parent.parent / "report" / "templates" / "model_card.md"
CARD_METRICS = (("accuracy", "accuracy"), ("macro_f1", "f1"))
UNSPECIFIED_LICENSE = "other"


def write_hub_folder(out: Path, folder: Path, licence: str | None, overwrite: bool) -> dict[str, Any]:
    """Write the folder, whole or not at all.

    Args:
        folder: of a mixture.
        licence: what the hub is told, such as `apache-2.0`; `other` where nothing is said.

    Returns:
        `figures`, how many figures the card holds and of which rows, and `remarks`: what to look at before an upload.

    Raises:
        Fault: when the folder is no whole mixture, or `out` exists and `overwrite` is false, or cannot be written.
    """
    if (folder / EXPERT_CARD).is_file():
        raise Fault(f"a mixture at {folder}", "one expert alone", "name --to peft, which writes its card too")
    card = read_card(folder)
    calibration = read_calibration(folder)
    made_up = _made_up(folder, card)
    figures, rows = _figures(folder, card) if not made_up else ([], "none")
    with atomic_folder(out, overwrite, unlisted=(CALIBRATION,)) as temporary:
        names = read_manifest(folder)
        assert isinstance(names, dict)
        for name in names:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, temporary / name)
        write_text(temporary / LICENSE_FILE, _licence(card, licence))
        told = _model_card(folder, card, licence, figures)
        seen = {"rows": rows, "made_up": made_up, "calibrated": calibration is not None}
        write_text(
            temporary / README,
            str(ModelCard.from_template(told, str(CARD_TEMPLATE), **_shown(folder, card, figures) | seen)),
        )
        if calibration is not None:  # it names the manifest's hash, so the manifest comes first
            write_manifest(temporary, (CALIBRATION,))
            write_calibration(temporary, calibration.tasks)
    check_manifest(out, "a mixture")
    remarks = list(_remarks(folder, card, licence, rows, made_up))
    for remark in remarks:
        info(remark)
    return {"figures": {"count": len(figures), "of": rows}, "remarks": remarks}


def _remarks(
    folder: Path, card: MixtureCard, licence: str | None, rows: str, made_up: Collection[str]
) -> Iterator[str]:
    if licence is None:
        yield f"no licence is said: the card says `{UNSPECIFIED_LICENSE}`; name one by --license, or write {LICENSE_FILE} yourself"
    if hub_name(card.backbone) is None:
        yield f"the backbone {card.backbone.name!r} is a folder here: nobody else finds it under that name"
    if made_up:
        yield f"{', '.join(made_up)}: rows that were made up, so the card holds no figure"
    elif rows != "test":
        yield "no evaluation of this model was found in its run: moe evaluate gives figures on test rows"
    paths = [line.strip() for line in (folder / CONFIG).read_text(encoding="utf-8").splitlines() if ": /" in line]
    if paths:
        yield f"{CONFIG} names {len(paths)} paths of this machine, e.g. {paths[0]}"


def _figures(folder: Path, card: MixtureCard) -> tuple[list[EvalResult], str]:
    """What the run's evaluation of this very model found, else its validation, and of which rows."""
    path = folder.parent / "evaluation" / folder.name / "metrics.json"
    if path.is_file() and path.stat().st_mtime >= (folder / MANIFEST).stat().st_mtime:
        content = read_json(path)
        if content["routing_mode"] == "soft":  # what a reader of the card would get
            tasks = content["tasks"].items()
            return [one for task, report in tasks for one in _results(task, "test", report)], "test"
    reports = {
        task: {name: card.metrics.get(f"{task}_{name}") for name, _ in CARD_METRICS}
        for domain in card.domains
        for task in domain.tasks
    }
    found = [one for task, report in reports.items() for one in _results(task, "validation", report)]
    return found, "validation" if found else "none"


def _results(task: str, split: str, report: dict[str, Any]) -> list[EvalResult]:
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


def _model_card(folder: Path, card: MixtureCard, licence: str | None, figures: Sequence[EvalResult]) -> ModelCardData:
    """What the hub reads of the card."""
    kind = () if card.language else ("sentiment-analysis",)
    return ModelCardData(
        license=licence or UNSPECIFIED_LICENSE,
        license_name=None if licence else "see-license-file",
        license_link=None if licence else LICENSE_FILE,
        base_model=hub_name(card.backbone),
        library_name="finmoe",
        pipeline_tag="text-generation" if card.language else "text-classification",
        tags=["finance", "finmoe", "lora", "mixture-of-experts", *kind],
        language=_languages(folder, card),
        model_name=folder.name if figures else None,
        eval_results=list(figures) or None,
    )


def _shown(folder: Path, card: MixtureCard, figures: Sequence[EvalResult]) -> dict[str, Any]:
    """What people read of it, for the template."""
    backbone = hub_name(card.backbone) or f"{Path(public_name(card.backbone)).name} (a folder)"
    return {
        "title": folder.name,
        "card": card,
        "backbone": backbone,
        "figures": figures,
        "counts": _counts(folder, card),
    }


def _made_up(folder: Path, card: MixtureCard) -> list[str]:
    """The tasks whose rows are the shipped sample's, of which no accuracy is to be told."""
    found = []
    for domain in card.domains:
        sample = folder.parent / "sample" / f"{domain.name}.csv"
        if sample.is_file():
            digest = sha256_of(sample)
            found += [task for task in domain.tasks if card.data_sha256.get(task) == digest]
    return found


def _prepared(folder: Path, card: MixtureCard) -> Iterator[tuple[str, Path]]:
    """The run's prepared rows by task, where the run is at hand."""
    for domain in card.domains:
        for task in domain.tasks:
            path = folder.parent / "data" / domain.name / task
            if (path / PREPARED).is_file():
                yield task, path


def _languages(folder: Path, card: MixtureCard) -> list[str] | None:
    """The languages that the run's training rows name."""
    named = {one for _, path in _prepared(folder, card) for one in _rows(path)["train"].unique("lang")}
    return sorted(one for one in named if one) or None


def _rows(path: Path) -> DatasetDict:
    return DatasetDict.load_from_disk(str(path / "rows"), keep_in_memory=False)


def _counts(folder: Path, card: MixtureCard) -> dict[str, dict[str, Any]]:
    """By task its file's hash, and where the run is at hand how many rows it had in which split. No text."""
    found: dict[str, dict[str, Any]] = {task: {"sha256": one, "rows": {}} for task, one in card.data_sha256.items()}
    for task, path in _prepared(folder, card):
        report = read_json(path / PREPARED)["report"]
        if found.get(task, {}).get("sha256") == report["sha256"]:
            found[task]["rows"] = {split: one["rows"] for split, one in report["splits"].items()}
    return found


def _licence(card: MixtureCard, licence: str | None) -> str:
    said = f"The experts, router and heads in this folder are given under: {licence}."
    if licence is None:
        said = """Nothing is said yet of what the experts, router and heads in this folder may be used for.
Say it here, and in the card's `license`, before you give them away."""
    return f"""{said}

They are of use beside the backbone {public_name(card.backbone)} alone, which is not in this folder and has a
licence of its own. The rows that they were trained on ({", ".join(card.data_sha256) or "unnamed"}) have licences of
their own too; those may bind what was learned from them.

FinMoE, the program that made and runs them, is under the Apache License 2.0.
"""


SHIPPED_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
_HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def public_name(backbone: BackboneId) -> str:
    """Its name on the hub, the shipped one's included; a folder's path stays a path."""
    return SHIPPED_ON_HUB if backbone.name == SHIPPED else backbone.name


def hub_name(backbone: BackboneId) -> str | None:
    """Its name on the hub; None for a folder."""
    name = public_name(backbone)
    return name if _HUB.fullmatch(name) and (backbone.revision is not None or backbone.name == SHIPPED) else None
