"""The labelled rows to judge a model on: a run's test rows, or a file that a user names.

How it is judged is `moe.evaluation.evaluate`'s.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from experts.errors import Fault, suggest
from moe.data.prepare import prepare_task
from moe.data.readers import read_records
from moe.data.schema import SPLITS, Columns, SplitSettings
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace


def load_evaluation_rows(
    work: Workspace,
    model: Mixture,
    data: Path | None,
    domain: str | None,
    within: Sequence[str] | None,
    left_out: Sequence[str],
) -> Dataset:
    """The rows to judge a model on: a labelled file's, else the run's test rows, of all its domains or one.

    Args:
        within: rows of these domains alone; None takes all that the model was made for.
        left_out: other domains that a file may have rows of.

    Raises:
        Fault: when the domain is unknown, or the file's rows belong to no known one.
    """
    known = [name for name in _known(work, model) if within is None or name in within]
    if domain is not None and domain not in known:
        raise Fault(f"one of the domains {', '.join(known)}", repr(domain), suggest(domain, known))
    if data is None:
        rows = work.rows("test", [domain]) if domain else load_run_rows(work, model, "test", within)
    else:
        names, mixed = ([domain], False) if domain else _domains_in(data, known, left_out)
        rows = _rows_of_file(work, data, names, mixed)
    if len(rows) == 0:
        raise Fault("rows to judge on", "none", "give the run a test split, or name a file by --data")
    return rows


load_evaluation_rows.__test__ = False  # type: ignore[attr-defined]


def load_run_rows(work: Workspace, model: Mixture, split: str, within: Sequence[str] | None = None) -> Dataset:
    """The run's rows of one split, of the domains that a model was made for, or of those that are `within` too.

    A lone expert is judged on its own domain, the shared one and a mixture on all.

    Raises:
        Fault: when there is no such domain.
    """
    own = [one.name for one in model.trained_domains if one.name in _known(work, model)]
    names = own if within is None else [name for name in own if name in within]
    if not names:
        wanted = ", ".join(work.run.domains if within is None else within)
        raise Fault(f"a model of the domains {wanted}", f"one of {', '.join(own) or 'others'}", "name another model")
    return work.rows(split, names)


def _known(work: Workspace, model: Mixture) -> list[str]:
    return [one.name for one in model.domains if one.name in work.run.domains]


def _domains_in(path: Path, known: list[str], left_out: Sequence[str]) -> tuple[list[str], bool]:
    """The domains that a file's own column names, all of them known; the only one there is where it has none.

    Returns:
        the domains, and whether rows have to be told apart by that column.
    """
    found = {str(record.values.get("domain")) for record in read_records(path, Columns())} - {"None", ""}
    if not found and len(known) == 1:
        return known, False
    ours = found - set(left_out)
    if not ours or not ours <= set(known):
        raise Fault(
            f"rows of the domains {', '.join(known)} in {path}",
            ", ".join(sorted(found)) or "no domain column",
            "say whose rows they are: --domain NAME",
        )
    return sorted(ours), len(found) > 1


def _rows_of_file(work: Workspace, path: Path, domains: list[str], mixed: bool) -> Dataset:
    """All labelled rows of a file, read by its domains' settings; nothing is split or removed."""
    parts = []
    for name in domains:
        for task, settings in work.run.tasks_of(name).items():
            only = {"domain": (name,)} if mixed else settings.only
            whole = settings.model_copy(
                update={
                    "only": only,
                    "max_train_rows": None,
                    "max_validation_rows": None,
                    "split": SplitSettings(own=False, ratios=(1, 0, 0)),
                }
            )
            data = work.run.data.model_copy(update={"near_duplicates": None})
            folder = work.out / "evaluation" / ".data" / path.stem / task
            prepared = prepare_task(path, whole, data, name, task, folder)
            parts += [prepared.splits[split] for split in SPLITS]
    return concatenate_datasets(parts)
