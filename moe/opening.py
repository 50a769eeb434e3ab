"""Opening what a user names: a model folder of either kind, and the labelled rows to judge it on.

What is done with them is `moe.evaluate`'s and `moe.answer`'s.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from pydantic import ValidationError

from experts.errors import Fault, guess
from experts.folder import CARD as EXPERT_CARD
from moe.alone import read_alone
from moe.backbone import BackboneSettings, load_backbone
from moe.config import ConfigFault, overlay, sentence
from moe.data.prepare import prepare_task
from moe.data.read import records
from moe.data.schema import SPLITS, Columns, SplitSettings
from moe.folder import read_card, read_mixture
from moe.model import Mixture
from moe.workspace import Workspace


def open_model(folder: Path, sets: Sequence[str] = ()) -> tuple[Mixture, str, int]:
    """A mixture, or one expert alone, ready to answer; with its template and the tokens it reads.

    Args:
        sets: `backbone.dtype=…`, `backbone.quantization=…`, `backbone.max_length=…` are laid over the card's.

    Raises:
        Fault: when the folder is missing, broken, or made for another backbone.
    """
    if (folder / EXPERT_CARD).is_file():
        model, run = read_alone(folder, lambda settings: _laid_over(settings, sets))
        return model, run.template, run.backbone.max_length
    card = read_card(folder)
    settings = _laid_over(card.backbone_settings, sets)
    model, card = read_mixture(folder, None if settings == card.backbone_settings else load_backbone(settings))
    return model, card.template, settings.max_length


def _laid_over(settings: BackboneSettings, sets: Sequence[str]) -> BackboneSettings:
    raw: dict[str, object] = {"backbone": settings.model_dump()}
    for one in sets:
        if one.startswith("backbone."):
            overlay(raw, one)
    try:
        return BackboneSettings.model_validate(raw["backbone"])
    except ValidationError as error:
        raise ConfigFault("--set", [sentence(one, ("backbone",)) for one in error.errors()]) from error


def test_rows(work: Workspace, model: Mixture, data: Path | None, domain: str | None) -> Dataset:
    """The rows to judge a model on: a labelled file's, else the run's test rows, of all its domains or one.

    Raises:
        Fault: when the domain is unknown, or the file's rows belong to no known one.
    """
    known = [one.name for one in model.domains if one.name in work.run.domains]
    if domain is not None and domain not in known:
        raise Fault(f"one of the domains {', '.join(known)}", repr(domain), guess(domain, known))
    if data is None:
        rows = work.rows("test", [domain] if domain else _answerable(model, known))
    else:
        rows = _rows_of_file(work, data, [domain] if domain else _domains_in(data, known))
    if len(rows) == 0:
        raise Fault("rows to judge on", "none", "give the run a test split, or name a file by --data")
    return rows


test_rows.__test__ = False  # type: ignore[attr-defined]


def _answerable(model: Mixture, known: list[str]) -> list[str]:
    """A lone expert is judged on its own domain, the shared one and a mixture on all."""
    owner = [one for one in known if model.only and (one == model.only or model.only.startswith(f"{one}-"))]
    return owner or known


def _domains_in(path: Path, known: list[str]) -> list[str]:
    """The domains that a file's own column names, all of them known; the only one there is where it has none."""
    found = {str(record.values.get("domain")) for record in records(path, Columns())} - {"None", ""}
    if not found and len(known) == 1:
        return known
    if not found or not found <= set(known):
        raise Fault(
            f"rows of the domains {', '.join(known)} in {path}",
            ", ".join(sorted(found)) or "no domain column",
            "say whose rows they are: --domain NAME",
        )
    return sorted(found)


def _rows_of_file(work: Workspace, path: Path, domains: list[str]) -> Dataset:
    """All labelled rows of a file, read by its domains' settings; nothing is split or removed."""
    parts = []
    for name in domains:
        for task, settings in work.run.tasks_of(name).items():
            only = {"domain": (name,)} if len(domains) > 1 else settings.only
            whole = settings.model_copy(
                update={"only": only, "max_train_rows": None, "split": SplitSettings(own=False, ratios=(1, 0, 0))}
            )
            data = work.run.data.model_copy(update={"near_duplicates": None})
            folder = work.out / "evaluation" / ".data" / path.stem / task
            prepared = prepare_task(path, whole, data, name, task, folder)
            parts += [prepared.splits[split] for split in SPLITS]
    return concatenate_datasets(parts)
