"""Labelled rows to evaluate a model on: a run's test rows, or a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from experts.errors import Fault, suggest
from experts.outputs import check_output_names
from moe.data.column_names import find_column
from moe.data.formats.readers import read_column_names, read_records
from moe.data.prepare import prepare_task
from moe.data.schema import Columns, TaskSettings
from moe.data.splitting.settings import SPLITS, SplitSettings
from moe.data.text_checks import is_blank
from moe.model.mixture import Mixture
from moe.runs.layout import EVALUATION, EVALUATION_DATA, PER_EXPERT
from moe.runs.workspace import Workspace

RESULT_FILES = ("right.csv", "wrong.csv", PER_EXPERT)
"""Files of an evaluation with the rows; each evaluation of a model replaces them."""


def check_no_result(data: Path | None, results: Path) -> None:
    """Check that a file to evaluate on is not one that the evaluation replaces.

    Args:
        data: the file; None is the run's test rows.
        results: folder of the results.

    Raises:
        Fault: if it is.
    """
    check_output_names(results, RESULT_FILES, [] if data is None else [data], overwrite=True)


def load_evaluation_rows(
    work: Workspace,
    model: Mixture,
    data: Path | None = None,
    domain: str | None = None,
    within: Sequence[str] | None = None,
    other_domains: Sequence[str] = (),
) -> Dataset:
    """Load the rows to evaluate a model on: those of a labelled file, else the run's test rows.

    Args:
        data: the file.
        domain: only rows of this domain.
        within: only rows of these domains; None takes all domains of the model.
        other_domains: domains whose rows in a file are skipped.

    Raises:
        Fault: if the domain is unknown, the file has rows of unknown domains, or there are no rows.
    """
    known = [name for name in _shared_domains(work, model) if within is None or name in within]
    if domain is not None and domain not in known:
        raise Fault(f"one of the domains {', '.join(known)}", repr(domain), suggest(domain, known))
    if data is None:
        rows = work.rows("test", [domain]) if domain else load_run_rows(work, model, "test", within)
    else:
        names, mixed = ([domain], False) if domain else _domains_of_file(data, known, other_domains)
        rows = _load_file_rows(work, data, names, mixed)
    if len(rows) == 0:
        raise Fault("rows to evaluate on", "none", "give the run a test split, or a file with --data")
    return rows


def load_run_rows(work: Workspace, model: Mixture, split: str, within: Sequence[str] | None = None) -> Dataset:
    """Load a split of the run, restricted to the domains that a model was trained on.

    A single expert is evaluated on its own domain; a shared expert and a mixture on all domains.

    Args:
        within: only rows of these domains.

    Raises:
        Fault: if no domain is left.
    """
    trained = [domain.name for domain in model.trained_domains if domain.name in _shared_domains(work, model)]
    names = trained if within is None else [name for name in trained if name in within]
    if not names:
        wanted = ", ".join(work.run.domains if within is None else within)
        raise Fault(f"a model of the domains {wanted}", f"one of {', '.join(trained) or 'others'}", "use another model")
    return work.rows(split, names)


def _shared_domains(work: Workspace, model: Mixture) -> list[str]:
    """Domains that both the model and the run have."""
    return [domain.name for domain in model.domains if domain.name in work.run.domains]


def _domains_of_file(path: Path, known: list[str], other_domains: Sequence[str]) -> tuple[list[str], bool]:
    """The domains in a file's domain column; without such a column, the only known domain.

    Returns:
        the domains, and whether the file has to be filtered by its domain column.
    """
    records = read_records(path, Columns().restricted_to("text", "domain"), text_optional=True)
    in_file = {str(domain).strip() for record in records if not is_blank(domain := record.values.get("domain"))}
    if not in_file and len(known) == 1:
        return known, False
    requested = in_file - set(other_domains)
    if not requested or not requested <= set(known):
        raise Fault(
            f"rows of the domains {', '.join(known)} in {path}",
            ", ".join(sorted(in_file)) or "no domain column",
            "give the domain of the rows with --domain NAME",
        )
    return sorted(requested), len(in_file) > 1


def _load_file_rows(work: Workspace, path: Path, domains: list[str], mixed: bool) -> Dataset:
    """All labelled rows of a file, read with the settings of its domains; no row is split off, capped or deduplicated.

    Of a domain that has tasks with and without a target, those are used that fit the columns of the file.

    Args:
        mixed: whether the file has rows of several domains.
    """
    parts, columns = [], read_column_names(path)
    for name in domains:
        for task, settings in _fitting_tasks(work.run.tasks_of(name), columns).items():
            all_rows = settings.model_copy(
                update={
                    "only": {"domain": (name,)} if mixed else settings.only,
                    "max_train_rows": None,
                    "max_validation_rows": None,
                    "split": SplitSettings(own=False, ratios=(1, 0, 0)),
                }
            )
            data = work.run.data.model_copy(update={"near_duplicates": None})
            folder = work.out / EVALUATION / EVALUATION_DATA / path.stem / task
            prepared = prepare_task(path, all_rows, data, name, task, folder)
            parts += [prepared.splits[split] for split in SPLITS]
    return concatenate_datasets(parts)


def _fitting_tasks(tasks: Mapping[str, TaskSettings], columns: Sequence[str]) -> dict[str, TaskSettings]:
    """Tasks with a target if the file has their column, else those without one; all tasks if they are of one kind."""
    targets = {task: its for task, its in tasks.items() if find_column(its.columns.target or "", columns) is not None}
    others = {task: its for task, its in tasks.items() if not its.has_target}
    return targets or others or dict(tasks)
