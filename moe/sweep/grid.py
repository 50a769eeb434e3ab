"""Sweep plans: reads a sweep file and checks the config of every trial before any weights are loaded."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from experts.errors import Fault, suggest
from experts.yaml_io import Location, Position, Positions, parse_yaml, read_document, read_yaml
from experts.yaml_scalars import dump_yaml
from moe.config.files import find_config
from moe.config.messages import ConfigFault, find_position, validate_settings
from moe.config.overrides import override_position
from moe.config.run import RunSettings, load_run
from moe.runs.preflight import check_config
from moe.sweep.settings import SearchRange, SweepSettings, split_keys

OWN_KEYS = ("run", "until", "over", "seeds", "folds", "search")
Values = dict[str, Any]
"""Values by dotted setting."""


@dataclass(frozen=True)
class Trial:
    """One combination of values, to be trained from every seed.

    Args:
        values: the swept settings.
        run: the complete config, checked.
        name: the values, readable in the name of its folder.
        digest: hash of all its settings, by which its folder is found even if the sweep file has changed.
    """

    values: Values
    run: RunSettings
    name: str
    digest: str

    @property
    def key(self) -> str:
        """Name and digest."""
        return f"{self.name}-{self.digest}"


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep file.

    Args:
        name: name of the file.
        source: path of the file, for messages.
        settings: content of the file.
        config: config of the run.
        sets: overrides of every trial, applied before its own values.
        fold_keys: settings that name the fold of a trial, among those of `settings.over`; empty without folds.
        positions: where the values of the file were written.
    """

    name: str
    source: str
    settings: SweepSettings
    config: Path
    sets: tuple[str, ...]
    fold_keys: tuple[str, ...] = ()
    positions: Positions = field(default_factory=dict, repr=False)

    def axes(self) -> list[list[Values]]:
        """Return the values of each key of `over`, with joined keys split."""
        return [
            [dict(zip(split_keys(key), value, strict=True)) if "," in key else {key: value} for value in values]
            for key, values in self.settings.over.items()
        ]

    def grid(self) -> list[Values]:
        """Return every combination of values."""
        return [{k: v for part in parts for k, v in part.items()} for parts in product(*self.axes())]

    def corners(self) -> list[Values]:
        """Return both ends of the search ranges with every combination of values, to check before a search."""
        ranges = self.settings.search.ranges if self.settings.search else {}
        ends = ({key: range_end(range_, end) for key, range_ in ranges.items()} for end in ("low", "high"))
        return [values | end for end in ends for values in self.grid()]

    def trials(self, combinations: Sequence[Values]) -> list[Trial]:
        """Return the trials of these combinations.

        Raises:
            ConfigFault: with every error of every trial at once, without duplicates.
        """
        trials: list[Trial] = []
        faults: dict[str, None] = {}
        for values in combinations:
            try:
                trials.append(self.trial(values))
            except ConfigFault as fault:
                faults |= dict.fromkeys(self._with_lines(error, values) for error in fault.faults)
        if faults:
            raise ConfigFault(self.source, list(faults))
        return trials

    def trial(self, values: Values) -> Trial:
        """Return one trial, with its config checked.

        Raises:
            ConfigFault: with every error of its config.
        """
        sets = [*self.sets, *(f"{key}={as_yaml(value)}" for key, value in values.items())]
        check_config(self.config, sets, reads_texts=False)
        run = load_run(self.config, sets)
        if faults := list(self._faults(run)):
            raise ConfigFault(self.source, faults)
        content = run.model_dump(mode="json", exclude={"seed"}) | {"until": self.settings.until}
        content |= {"only": self.trained_domains(run)} if self.settings.until == "expert" else {}
        varying = {key: value for key, value in values.items() if key in self.varying_keys()}
        return Trial(values, run, slug(varying), short_hash(content))

    def _with_lines(self, error: str, values: Values) -> str:
        """Name the line of a swept value in place of the override that sets it."""
        for key, value in values.items():
            ranges, over = ("search", "ranges", key), next((k for k in self.settings.over if key in split_keys(k)), key)
            if position := find_position(self.positions, ("over", over)) or find_position(self.positions, ranges):
                error = error.replace(f"({override_position(f'{key}={as_yaml(value)}')})", f"({position})")
        return error

    def _faults(self, run: RunSettings) -> Iterator[str]:
        if self.settings.until == "shared" and run.shared is None:
            yield "until is shared, but the run has no shared expert: set its rank, shared.r"
        for name in self.settings.domains or ():
            if name not in run.domains:
                yield f"domains: no domain {name!r} in the run; {suggest(name, run.domains)}"

    def trained_domains(self, run: RunSettings) -> list[str]:
        """Return the domains whose experts are trained."""
        return list(self.settings.domains or run.domains)

    def varying_keys(self) -> list[str]:
        """Return the settings that differ between trials."""
        keys = [name for axis in self.axes() if len(axis) > 1 for name in axis[0]]
        return keys + ([] if self.settings.search is None else list(self.settings.search.ranges))

    def seeds_of(self, trial: Trial) -> tuple[int, ...]:
        """Return the seeds from which a trial is trained."""
        return self.settings.seeds or (trial.run.seed,)


def read_plan(path: Path, sets: Sequence[str] = (), over: Sequence[str] = (), *, folds: bool = False) -> SweepPlan:
    """Read a sweep file, or a run's config with `over` or `folds` only.

    Args:
        sets: `key=value` overrides of every trial.
        over: `key=v1,v2`, added to the keys of the file or replacing them; `seed=…` sets the seeds.
        folds: train every fold, as `folds: true` in the file.

    Raises:
        Fault: with every error of the file at once; or if there are to be folds, and the run has none.
    """
    source = find_config(path)
    document = read_document(source)
    raw, positions = document.value, document.positions
    if not set(OWN_KEYS) & raw.keys():
        raw = {"run": str(source.resolve())}
    for override in over:
        _add_over(raw, override, positions)
    raw |= {"folds": True} if folds else {}
    settings, errors = validate_settings(SweepSettings, raw, positions)
    if settings is None:
        raise ConfigFault(str(path), errors)
    config = _find_run_config(settings, source)
    plan = SweepPlan(source.stem, str(path), settings, config, tuple(sets), positions=positions)
    return with_folds(plan, load_run(config, sets)) if settings.folds else plan


def with_folds(plan: SweepPlan, run: RunSettings) -> SweepPlan:
    """Return a plan that also varies the fold of every trained domain that has folds, of all of them together.

    Raises:
        Fault: if none has folds, their numbers differ, or the fold is swept already.
    """
    counts: dict[str, int] = {}
    for name in plan.trained_domains(run) if plan.settings.until == "expert" else run.domains:
        for task in (domain := run.domains[name]).tasks or [""]:
            split = domain.tasks[task].split if task else domain.split
            if split.fold_count is not None:
                counts[f"domains.{name}.{f'tasks.{task}.' if task else ''}split.fold"] = split.fold_count
    if not counts:
        raise Fault(
            f"a domain with split.walk_forward or split.folds in {plan.config}", "none", "see docs/data.md for folds"
        )
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of {key.removesuffix('.split.fold')}" for key, count in counts.items())
        raise Fault("as many folds in every domain that has folds", listed, "change them, or name one domain")
    if swept := [key for joined in plan.settings.over for key in split_keys(joined) if key in counts]:
        raise Fault("folds that are not swept otherwise", f"{swept[0]} under over", "remove it, or folds")
    numbers = range(next(iter(counts.values())))
    values = [number if len(counts) == 1 else [number] * len(counts) for number in numbers]
    over = plan.settings.over | {", ".join(counts): values}
    return replace(plan, settings=plan.settings.model_copy(update={"over": over}), fold_keys=tuple(counts))


def is_sweep(path: Path) -> bool:
    """Whether a file is a sweep file, not a run's config.

    Raises:
        Fault: if it cannot be read as YAML.
    """
    return bool(set(OWN_KEYS) & read_yaml(find_config(path)).keys())


def check_sweep(path: Path, sets: Sequence[str] = ()) -> str:
    """Check a sweep file and the configs of its trials, without loading weights.

    Returns:
        a summary of the sweep in one line.

    Raises:
        Fault: with every error at once.
    """
    plan = read_plan(path, sets)
    trials = plan.trials(plan.corners() if plan.settings.search else plan.grid())
    trainings = sum(len(plan.seeds_of(trial)) for trial in trials)
    size = f"{plan.settings.search.trials} trials" if plan.settings.search else f"{trainings} trainings"
    return f"{path}: valid; a sweep of {', '.join(plan.varying_keys()) or 'nothing'} over {plan.config}, {size}"


def _find_run_config(settings: SweepSettings, source: Path) -> Path:
    relative = source.parent / settings.run if settings.run else None
    return relative if relative and relative.is_file() else find_config(settings.run)


def _add_over(raw: Values, override: str, positions: Positions) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key or not text.strip():
        raise Fault("--over key=v1,v2", repr(override), "write for example --over lora.r=8,16,32")
    try:
        values = parse_yaml(f"[{text}]").value
    except ValueError as error:
        reason = str(error).removeprefix("line 1: ")
        raise Fault(f"YAML values in --over {override[:80]}", reason, "quote the values that are text") from error
    setting: Location = ("seeds",) if key == "seed" else ("over", key)
    for position in [position for position in positions if position[: len(setting)] == setting]:
        del positions[position]
    positions[setting] = Position(f"--over {override[:80]}")
    if key == "seed":
        raw["seeds"] = values
        return
    current = raw.get("over") if isinstance(raw.get("over"), dict) else {}
    assert current is not None
    replaced = set(split_keys(key))
    others = {k: v for k, v in current.items() if not replaced & set(split_keys(str(k)))}
    raw["over"] = others | {key: values}


def range_end(range_: SearchRange, end: Literal["low", "high"]) -> float | int:
    """Return an end of a range, as an integer if the range is one of integers."""
    value: float = getattr(range_, end)
    return int(value) if range_.integer else value


def as_yaml(value: Any) -> str:
    """Format a value as `--set` parses it."""
    return dump_yaml([value], default_flow_style=True, width=10**9).strip()[1:-1]


def format_value(value: Any) -> str:
    """Format a value for people: short numbers, mappings without braces."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_value(inner)}" for key, inner in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def slug(values: Mapping[str, object]) -> str:
    """Format values as the name of a folder, of at most 60 characters: r-8_alpha-8."""
    parts = (f"{key.rpartition('.')[2]}-{format_value(value)}" for key, value in values.items())
    return re.sub(r"[^\w.]+", "-", "_".join(parts))[:60].strip("-_.") or "point"


def short_hash(content: Any) -> str:
    """Return the first eight hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
