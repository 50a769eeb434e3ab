"""One run as one frozen object, composed of the parts' settings; every fault of a config is told at once.

It reads YAML and nothing else: no weight, no row.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from experts.domain import Domain, LabelSpace
from experts.errors import Fault, suggest
from experts.lora import LoraSettings
from moe.config.messages import format_error
from moe.config.stages import LossSettings, StagesSettings
from moe.config.yaml import parse_yaml, read_yaml
from moe.data.schema import DataSettings, TaskSettings
from moe.model.backbone import BackboneSettings
from moe.model.heads import HeadSettings
from moe.model.lm_head import LanguageSettings
from moe.trackers import TENSORBOARD, Tracker
from router.dao import DAOSettings
from router.gate import GateSettings
from router.registry import ComparatorSettings

PACKAGED_CONFIGS = Path(__file__).parent.parent / "configs"
REPOSITORY_CONFIGS = PACKAGED_CONFIGS.parent.parent / "configs"
DEFAULT = "demo.yaml"
EXPONENT = re.compile(r"[+-]?\d+(\.\d+)?[eE][+-]?\d{1,2}")
"""A number that YAML 1.1 reads as a word, such as 1e-4."""


def _is_plain(name: str) -> bool:
    letters = name.replace("_", "").replace("-", "")
    return len(name) <= 100 and letters.isalnum() and name.isascii() and name == name.lower()


def _plain_name(name: str) -> str:
    if not _is_plain(name):
        raise ValueError("a domain's name has lower-case letters, digits, - and _ only, at most 100")
    if hasattr(nn.ParameterDict, name) or name == "shared":
        raise ValueError(f"{name!r} is a reserved word: choose another domain name")
    return name


def _template(text: str) -> str:
    if text.count("{text}") != 1:
        raise ValueError("a template holds {text} exactly once")
    return text


DomainName = Annotated[str, AfterValidator(_plain_name)]


class SampleSettings(BaseModel):
    """The shipped, made-up sample as data, for seeing the pipeline run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(2400, ge=60, description="texts a domain; more takes longer")
    seed: int = Field(13, ge=0, lt=2**31, description="another seed, other texts")


class DomainSettings(TaskSettings):
    """A domain: one task written here, or several under `tasks`."""

    corpus: tuple[str, ...] = Field(
        (), description="files of plain text to pre-train on, one document a line, from the data folder"
    )
    role: str = Field("", description="group of experts in team gates; the domain's own name by default")
    experts: int = Field(1, ge=1, description="experts of this domain, each from its own seed")
    tasks: dict[str, TaskSettings] = Field(default_factory=dict, description="several label sets in one domain")


class RunSettings(BaseModel):
    """Everything that a run is made of. The same file makes the same run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(
        13, ge=0, lt=2**31, description="seeds weights and the order of rows; splits have seeds of their own"
    )
    template: Annotated[str, AfterValidator(_template)] = Field(
        "{text}", description="the one neutral text around every text, in training and inference"
    )
    backbone: BackboneSettings = BackboneSettings()
    data: DataSettings = DataSettings()
    sample: SampleSettings | None = Field(None, description="take the shipped sample for domains without a file")
    domains: dict[DomainName, DomainSettings] = Field(min_length=1, description="the domains, each with its experts")
    lora: LoraSettings = LoraSettings()
    shared: LoraSettings | None = Field(None, description="an expert on all domains pooled, always on; none by default")
    language: LanguageSettings | None = Field(
        None, description="experts of a language model, with the backbone's own head; none are for labels"
    )
    heads: HeadSettings = HeadSettings()
    gate: GateSettings = GateSettings()
    losses: LossSettings = LossSettings()
    dao: DAOSettings = DAOSettings()
    comparators: ComparatorSettings = ComparatorSettings()
    stages: StagesSettings = StagesSettings()
    track: tuple[Tracker, ...] = Field(
        (TENSORBOARD,), description="who is told of every step, beside the log on disk; several at once, or none"
    )

    def tasks_of(self, domain: str) -> dict[str, TaskSettings]:
        """A domain's tasks by name; its own where it declares none."""
        settings = self.domains[domain]
        return dict(settings.tasks) or {domain: settings}

    def questions_of(self, domain: str) -> dict[str, TaskSettings]:
        """A domain's tasks whose rows ask something of a language model, by name."""
        return {name: one for name, one in self.tasks_of(domain).items() if one.ask is not None}

    def task_settings(self, domain: str, task: str | None = None) -> TaskSettings:
        """The settings by which a task's file is read; without a task, those of the domain's first.

        Raises:
            Fault: when the domain or the task is unknown.
        """
        if domain not in self.domains:
            raise Fault(f"one of the domains {', '.join(self.domains)}", repr(domain), suggest(domain, self.domains))
        tasks = self.tasks_of(domain)
        if task is not None and task not in tasks:
            raise Fault(f"one of {domain}'s tasks {', '.join(tasks)}", repr(task), suggest(task, tasks))
        return tasks[task] if task is not None else next(iter(tasks.values()))

    def domain_list(self) -> list[Domain]:
        """The domains as the experts know them; in a language model they have no labels."""
        tasks = {name: {} if self.language else self.tasks_of(name) for name in self.domains}
        return [
            Domain(name, {task: its.labels for task, its in tasks[name].items()}, one.role, one.experts)
            for name, one in self.domains.items()
        ]

    def label_space(self) -> LabelSpace:
        """Which task reads which head."""
        return LabelSpace.from_domains(self.domain_list())

    def as_yaml(self) -> str:
        """The resolved settings, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class ConfigFault(Fault):
    """All faults of one config, a line each."""

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        one = len(faults) == 1
        self.expected, self.found, self.remedy = f"a config without fault in {source}", "; ".join(faults), "mend it"
        body = faults[0] if one else "".join(f"\n  - {fault}" for fault in faults)
        ValueError.__init__(self, f"{source}: {body}" if one else f"{source} has {len(faults)} faults:{body}")


def find_config(path: Path | None) -> Path:
    """The config asked for, else `configs/demo.yaml` of this folder, of the clone, or of the installed package.

    Raises:
        Fault: when there is none.
    """
    name = path or Path("configs") / DEFAULT
    if name.is_file():
        return name
    inner = Path(*name.parts[1:]) if name.parts[:1] == ("configs",) else name
    for folder in (REPOSITORY_CONFIGS, PACKAGED_CONFIGS):
        if not name.is_absolute() and (folder / inner).is_file():
            return folder / inner
    have = sorted(p.relative_to(REPOSITORY_CONFIGS).as_posix() for p in REPOSITORY_CONFIGS.rglob("*.yaml"))
    near = difflib.get_close_matches(inner.as_posix(), have, n=1)
    raise Fault(
        f"a config file at {name}", "no such file", f"did you mean configs/{near[0]}" if near else "name a file"
    )


def load_run(path: Path | None = None, sets: Sequence[str] = ()) -> RunSettings:
    """Read a config, lay `--set key=value` over it, and check all of it.

    Raises:
        Fault: with every fault of the config at once.
    """
    found = find_config(path)
    raw = read_yaml(found)
    for one in sets:
        apply_override(raw, one)
    raw["domains"] = _resolve_domains(raw.get("domains"), found)
    return parse_run(raw, str(found))


def parse_run(raw: Mapping[str, Any], source: str) -> RunSettings:
    """Check a mapping against the settings and their agreement with each other.

    Raises:
        Fault: with every fault at once.
    """
    try:
        run = RunSettings.model_validate(raw)
    except ValidationError as error:
        raise ConfigFault(source, [format_error(one, model=RunSettings) for one in error.errors()]) from error
    if faults := find_conflicts(run):
        raise ConfigFault(source, faults)
    return run


def find_conflicts(run: RunSettings) -> list[str]:
    """What the parts' settings say against each other, a sentence each."""
    faults = []
    try:
        run.label_space()
    except Fault as fault:
        faults.append(str(fault))
    experts = sum(domain.experts for domain in run.domains.values())
    groups = {"hard": 1, "team": len({one.group for one in run.domain_list()})}.get(run.gate.kind, experts)
    if run.gate.top_k is not None and run.gate.top_k > groups:
        faults.append(f"gate.top_k is {run.gate.top_k}, but {run.gate.kind} gates have {groups} groups: lower it")
    if run.gate.fixed is not None and len(run.gate.fixed) != experts:
        faults.append(f"gate.fixed has {len(run.gate.fixed)} weights for {experts} experts: give one an expert")
    if run.language is not None and "general" in run.domains:
        faults.append("domains.general: the general text of a language model has this name; choose another")
    if run.gate.unit == "token" and run.language is None:
        faults.append("gate.unit is token, but labels are learned of whole texts: set it to text")
    if run.losses.inner == "constant" and run.losses.classes == "dao" and run.dao.imbalance != "fixed":
        faults.append(f"dao.imbalance is {run.dao.imbalance}, but losses.inner is constant: set one to dao or fixed")
    for domain in run.domains:
        if domain in re.findall(r"\w+", run.template.lower()):
            faults.append(f"template names the domain {domain}: the router must not be told; use a neutral one")
        faults += _misplaced_asks(run, domain) if run.language else _unlabelled(run, domain)
    return faults + _needs_all_at_once(run)


def _needs_all_at_once(run: RunSettings) -> list[str]:
    """What looks back through the experts before a step's loss is known.

    Micro-batches keep no way back by then, and of weights that are shared out no gradient can be asked on the side.
    """
    losses, inner = run.losses, run.language is None
    asked: list[tuple[str, tuple[str, ...]]] = []
    if run.dao.objective == "validation" and "dao" in (losses.inner if inner else None, losses.outer):
        asked.append(("dao.objective is validation", ("shared", "expert", "joint", "instruct")))
    if losses.measured == "parameters" and inner and losses.inner in ("dao", "gradnorm", "pcgrad"):
        asked.append(("losses.measured is parameters", ("shared", "expert", "joint")))
    if losses.outer == "pcgrad":
        asked.append(("losses.outer is pcgrad", ("joint", "instruct")))
    faults = [
        f"stages.{stage}.accumulate is {accumulate}, but {what}, which needs a step in one pass: set it to 1"
        for what, stages in asked
        for stage in stages
        if (accumulate := getattr(run.stages, stage).accumulate) > 1
    ]
    if not run.stages.shard:
        return faults
    if run.backbone.quantization != "none":
        asked.append((f"backbone.quantization is {run.backbone.quantization}", ()))
    return faults + [
        f"stages.shard is true, but {what}, which needs whole weights: set it to false" for what, _ in asked
    ]


def _misplaced_asks(run: RunSettings, domain: str) -> list[str]:
    return [
        f"domains.{domain}: task {task} says not what its rows ask a language model: give it `ask`"
        for task, one in run.domains[domain].tasks.items()
        if one.ask is None
    ]


def _unlabelled(run: RunSettings, domain: str) -> list[str]:
    tasks = run.tasks_of(domain)
    faults = [
        f"domains.{domain}: task {task} has no labels: name them in their order"
        for task, one in tasks.items()
        if not one.labels
    ]
    return faults + [
        f"domains.{domain}: task {task} has `ask`, which is for language models: leave it out, or add `language: {{}}`"
        for task in run.questions_of(domain)
    ]


def apply_override(raw: dict[str, Any], one: str) -> None:
    """Lay one `key=value` over a raw config; the key is dotted, the value is YAML.

    Raises:
        Fault: when it is not of that form.
    """
    key, equals, value = one.partition("=")
    if not equals or not key:
        raise Fault("--set key=value", repr(one), "write for example --set stages.joint.lr=1e-4")
    *path, last = key.split(".")
    place = raw
    for depth, part in enumerate(path):
        if part == "domains" and depth == 0:
            raw["domains"] = _domain_mapping(raw.get("domains"))
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]
    place[last] = _parse_value(value, one)


def _parse_value(value: str, one: str) -> Any:
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        raise Fault("a YAML value after =", repr(one), "quote it") from error
    return float(parsed) if isinstance(parsed, str) and EXPONENT.fullmatch(parsed) else parsed


def _domain_mapping(domains: Any) -> dict[str, Any]:
    if isinstance(domains, list):
        return {str(name): None for name in domains}
    return dict(domains) if isinstance(domains, dict) else {}


def _resolve_domains(domains: Any, source: Path) -> dict[str, Any]:
    """Each domain's own YAML (`domains/NAME.yaml` beside or above the config, or shipped), inline keys over it."""
    return {name: _resolve(name, inline, source) for name, inline in _domain_mapping(domains).items()}


def _resolve(name: str, inline: Any, source: Path) -> Any:
    if (inline is not None and not isinstance(inline, dict)) or not _is_plain(name):
        return inline or {}  # what is wrong with it is told with all other faults
    folders = (source.parent / "domains", source.parent.parent / "domains", REPOSITORY_CONFIGS / "domains", PACKAGED_CONFIGS / "domains")
    file = next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)
    if file is None and inline is None:
        known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
        near = difflib.get_close_matches(name, known, n=1)
        raise Fault(
            f"a domain with a file domains/{name}.yaml, or declared in {source.name}",
            f"neither for {name!r}",
            f"did you mean {near[0]}" if near else f"write one (known: {', '.join(known)})",
        )
    return (read_yaml(file) if file else {}) | (inline or {})
