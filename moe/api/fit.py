"""Training from rows in memory: written as files of a run, which is then trained like that of `moe run`."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import Any

from transformers import TrainerCallback

from experts.atomic_io import write_json
from experts.errors import Fault
from experts.locks import output_lock
from experts.yaml_io import read_yaml
from moe.config.files import find_config
from moe.config.overrides import apply_override, override_strings
from moe.config.run import RunSettings, parse_run
from moe.console import suppress_output
from moe.data.formats.writers import open_writer
from moe.errors import Interrupted
from moe.runs.workspace import Workspace
from moe.training.pipeline import train_all

MARKER_FILE = "estimator.json"
Overrides = Mapping[str, Any] | Sequence[str]
"""Settings as a nested mapping, `{"lora": {"r": 8}}`, or as on the command line, `["lora.r=8"]`."""


@dataclass(frozen=True)
class DomainRows:
    """Training rows of one domain.

    Args:
        rows: with `text` and `label`, and optionally `score`, `target`, `id` and `split`.
        labels: names of the labels.
        ratios: numbers of train, validation and test rows, for rows without a split of their own.
    """

    rows: Iterable[Mapping[str, object]]
    labels: Sequence[str]
    ratios: tuple[int, int, int] | None = None

    def settings(self, name: str) -> dict[str, object]:
        """The domain's settings in the config of the run."""
        settings: dict[str, object] = {"file": f"{name}.jsonl", "labels": list(self.labels)}
        return settings if self.ratios is None else settings | {"split": {"ratios": list(self.ratios)}}


def run_settings(
    config: str | Path | None, overrides: Overrides, domains: Mapping[str, DomainRows], seed: int | None
) -> RunSettings:
    """The settings of a run with these domains instead of those of the config.

    Raises:
        Fault: with all faults of the config, or if it is that of a language model.
    """
    source = find_config(Path(config) if config is not None else None)
    raw = read_yaml(source)
    for override in override_strings(overrides) if isinstance(overrides, Mapping) else overrides:
        apply_override(raw, override)
    if raw.get("language") is not None:
        raise Fault(
            "a config of a classifier", f"a language model's config, {source}", "remove `language` from the config"
        )
    raw["domains"] = {name: domain.settings(name) for name, domain in domains.items()}
    raw.pop("sample", None)
    if seed is not None:
        raw["seed"] = seed
    return parse_run(raw, str(source))


def train_rows(
    run: RunSettings,
    domains: Mapping[str, DomainRows],
    folder: Path,
    *,
    classes: Sequence[Any],
    verbose: bool,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Write the rows to a run's folder and train all steps on them.

    Args:
        folder: an empty one, or that of an earlier call, whose run is deleted.
        classes: recorded in the folder.
        verbose: show the progress of training.
        callbacks: called by the training loop of every stage.

    Returns:
        folder of the best mixture, or of the only expert.

    Raises:
        Fault: if the folder holds something else, training fails, or another process trains there.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
        SystemExit: on SIGTERM, after a checkpoint.
    """
    with output_lock(folder):
        _clear(folder)
        for name, domain in domains.items():
            with open_writer(folder / "rows" / f"{name}.jsonl") as writer:
                for row in domain.rows:
                    writer.write(dict(row))
        write_json(folder / MARKER_FILE, {"classes": list(classes), "domains": list(domains)})
        run = run.model_copy(update={"data": run.data.model_copy(update={"folder": str(folder / "rows")})})
        with interrupts_as_exceptions(), nullcontext() if verbose else suppress_output():
            return train_all(Workspace(run, folder, callbacks=tuple(callbacks)))


def _clear(folder: Path) -> None:
    """Delete the run of an earlier call.

    Raises:
        Fault: if the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MARKER_FILE).is_file():
        raise Fault(
            f"an empty folder at {folder}, or the run of an earlier fit", "other files", "choose another folder"
        )
    shutil.rmtree(folder)


@contextmanager
def interrupts_as_exceptions() -> Iterator[None]:
    """Raise Ctrl-C and SIGTERM as KeyboardInterrupt and SystemExit.

    `Interrupted` is an ordinary exception; callers that catch exceptions and continue, such as a cross-validation,
    would ignore it.
    """
    try:
        yield
    except Interrupted as interrupted:
        if interrupted.number == SIGINT:
            raise KeyboardInterrupt from interrupted
        raise SystemExit(128 + interrupted.number) from interrupted
