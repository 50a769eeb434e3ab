"""A sweep file read, and its points: every config of them is checked before any weight is loaded.

What a sweep file may say is `moe.sweep.settings`', how a point is trained and measured `moe.sweep.trials`'.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from experts.errors import Fault, suggest
from moe.config.messages import format_error
from moe.config.preflight import check_config
from moe.config.run import ConfigFault, RunSettings, find_config, load_run, apply_override
from moe.config.yaml import read_yaml
from moe.sweep.settings import SearchRange, SweepSettings, split_keys

OWN_KEYS = ("run", "until", "over", "seeds", "search")
Values = dict[str, Any]
"""A value by dotted setting."""


@dataclass(frozen=True)
class Trial:
    """One combination of values.

    Args:
        values: what is special about it.
        run: its whole config, checked.
        name: its values, readable in a folder's name.
        digest: of all its settings; by this its folder is found again, whatever else is swept by then.
    """

    values: Values
    run: RunSettings
    name: str
    digest: str

    @property
    def key(self) -> str:
        """Name and digest together."""
        return f"{self.name}-{self.digest}"


@dataclass(frozen=True)
class SweepPlan:
    """A sweep, checked.

    Args:
        name: the file's.
        source: the file, for messages.
        settings: what it says.
        config: the run's config.
        sets: laid over every point, before its own values.
    """

    name: str
    source: str
    settings: SweepSettings
    config: Path
    sets: tuple[str, ...]

    def axes(self) -> list[list[Values]]:
        """The values of each key of `over`, joined keys opened."""
        return [
            [dict(zip(split_keys(key), one, strict=True)) if "," in key else {key: one} for one in values]
            for key, values in self.settings.over.items()
        ]

    def grid(self) -> list[Values]:
        """Every combination."""
        return [{k: v for part in parts for k, v in part.items()} for parts in product(*self.axes())]

    def corners(self) -> list[Values]:
        """The two ends of a search's ranges with every combination beside them: what is checked before it starts."""
        ranges = self.settings.search.ranges if self.settings.search else {}
        ends = ({key: range_end(one, end) for key, one in ranges.items()} for end in ("low", "high"))
        return [values | end for end in ends for values in self.grid()]

    def points(self, all_values: Sequence[Values]) -> list[Trial]:
        """Points of these values.

        Raises:
            ConfigFault: with every fault of every point at once, each told once.
        """
        found: list[Trial] = []
        faults: dict[str, None] = {}
        for values in all_values:
            try:
                found.append(self.point(values))
            except ConfigFault as fault:
                faults |= dict.fromkeys(fault.faults)
        if faults:
            raise ConfigFault(self.source, list(faults))
        return found

    def point(self, values: Values) -> Trial:
        """One point, its config checked.

        Raises:
            ConfigFault: with every fault of its config.
        """
        sets = [*self.sets, *(f"{key}={as_yaml(value)}" for key, value in values.items())]
        check_config(self.config, sets)
        run = load_run(self.config, sets)
        if faults := list(self._disagreements(run)):
            raise ConfigFault(self.source, faults)
        content = run.model_dump(mode="json", exclude={"seed"}) | {"until": self.settings.until}
        content |= {"only": self.domains_of(run)} if self.settings.until == "expert" else {}
        special = {key: value for key, value in values.items() if key in self.varying()}
        return Trial(values, run, slug(special), short_hash(content))

    def _disagreements(self, run: RunSettings) -> Iterator[str]:
        if self.settings.until == "shared" and run.shared is None:
            yield "until is shared, but the run has no shared expert: give it a rank, shared.r"
        for name in self.settings.domains or ():
            if name not in run.domains:
                yield f"domains: no domain {name!r} in the run; {suggest(name, run.domains)}"

    def domains_of(self, run: RunSettings) -> list[str]:
        """The domains whose experts are trained."""
        return list(self.settings.domains or run.domains)

    def varying(self) -> list[str]:
        """The settings that differ between points."""
        keys = [name for axis in self.axes() if len(axis) > 1 for name in axis[0]]
        return keys + ([] if self.settings.search is None else list(self.settings.search.ranges))

    def seeds_of(self, point: Trial) -> tuple[int, ...]:
        """The seeds that a point is trained from."""
        return self.settings.seeds or (point.run.seed,)


def read_plan(path: Path, sets: Sequence[str] = (), over: Sequence[str] = ()) -> SweepPlan:
    """Read a sweep file, or a run's config with `over` alone.

    Args:
        sets: `key=value`, laid over every point.
        over: `key=v1,v2`, added to the file's own or in place of them; `seed=…` gives the seeds.

    Raises:
        Fault: with every fault of the file at once.
    """
    found = find_config(path)
    raw = read_yaml(found)
    if not set(OWN_KEYS) & raw.keys():
        raw = {"run": str(found.resolve())}
    for one in over:
        _add(raw, one)
    try:
        settings = SweepSettings.model_validate(raw)
    except ValidationError as error:
        raise ConfigFault(str(path), [_sentence(one) for one in error.errors()]) from error
    return SweepPlan(found.stem, str(path), settings, _config_of(settings, found), tuple(sets))


def is_sweep(path: Path) -> bool:
    """Whether a file says what to sweep, and is no run's config.

    Raises:
        Fault: when it cannot be read as YAML.
    """
    return bool(set(OWN_KEYS) & read_yaml(find_config(path)).keys())


def check_sweep(path: Path, sets: Sequence[str] = ()) -> str:
    """Tell every fault of a sweep file and of its points' configs at once; no weight is loaded.

    Returns:
        what the sweep says, in one line.

    Raises:
        Fault: with every fault at once.
    """
    plan = read_plan(path, sets)
    points = plan.points(plan.corners() if plan.settings.search else plan.grid())
    trained = sum(len(plan.seeds_of(point)) for point in points)
    whole = f"{plan.settings.search.trials} trials" if plan.settings.search else f"{trained} trainings"
    return f"{path}: no fault; a sweep of {', '.join(plan.varying()) or 'nothing'} over {plan.config}, {whole}"


def _sentence(error: Any) -> str:
    """An error in a sentence; of what the file says as a whole, without the whole file."""
    return format_error(error, model=SweepSettings) if error["loc"] else error["msg"].removeprefix("Value error, ")


def _config_of(settings: SweepSettings, source: Path) -> Path:
    beside = source.parent / settings.run if settings.run else None
    return beside if beside and beside.is_file() else find_config(settings.run)


def _add(raw: Values, one: str) -> None:
    key, equals, text = one.partition("=")
    if not equals or not key or not text.strip():
        raise Fault("--over key=v1,v2", repr(one), "write for example --over lora.r=8,16,32")
    read: Values = {}
    apply_override(read, f"values=[{text}]")
    if key == "seed":
        raw["seeds"] = read["values"]
        return
    taken = raw.get("over") if isinstance(raw.get("over"), dict) else {}
    assert taken is not None
    replaced = set(split_keys(key))
    raw["over"] = {k: v for k, v in taken.items() if not replaced & set(split_keys(str(k)))} | {key: read["values"]}


def range_end(one: SearchRange, end: Literal["low", "high"]) -> float | int:
    """An end of a range, a whole number where it asks for such."""
    value: float = getattr(one, end)
    return int(value) if one.whole else value


def as_yaml(value: Any) -> str:
    """A value as `--set` reads it."""
    return str(yaml.safe_dump([value], default_flow_style=True, width=10**9, allow_unicode=True)).strip()[1:-1]


def format_value(value: Any) -> str:
    """A value for people: short numbers, mappings without braces."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_value(inner)}" for key, inner in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def slug(values: Mapping[str, Any]) -> str:
    """Values as a folder's name, at most 60 letters: r-8_alpha-8."""
    parts = (f"{key.rpartition('.')[2]}-{format_value(value)}" for key, value in values.items())
    return re.sub(r"[^\w.]+", "-", "_".join(parts))[:60].strip("-_.") or "point"


def short_hash(content: Any) -> str:
    """Eight hex digits of a JSON value's SHA-256."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
