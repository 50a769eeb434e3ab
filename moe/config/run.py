"""All settings of a run as one frozen object, read from YAML; the errors of a config are reported all at once."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import nn

from experts.domain import CLASSES, Domain, LabelSpace
from experts.errors import Fault, suggest
from experts.lora import LoraSettings
from experts.yaml_io import Positions, read_document
from experts.yaml_scalars import dump_yaml
from moe.config.defaults import LORA_ON_SHARED, SHARED_EXPERT
from moe.config.domain_files import is_plain, resolve_domains
from moe.config.domain_settings import DomainSettings, SampleSettings, kind_conflicts
from moe.config.expert_init import ExpertInitSettings
from moe.config.files import find_config
from moe.config.messages import ConfigFault, validate_settings
from moe.config.overrides import apply_override
from moe.config.shared import SharedSettings
from moe.config.stages import EXPERT_ON_SHARED, LossSettings, StageSettings, StagesSettings, fill_stage
from moe.data.distilled.settings import DistillSettings, distill_conflicts
from moe.data.schema import DataSettings, TaskSettings
from moe.kinds.registry import task_kind
from moe.model.backbone import AUTO, BackboneSettings
from moe.model.heads import HeadSettings
from moe.model.lm_head import LanguageSettings
from moe.trackers import TENSORBOARD, Tracker
from router.gate_settings import GateSettings
from router.registry import ComparatorSettings, DAOSettings


def _check_domain_name(name: str) -> str:
    if not is_plain(name):
        raise ValueError("a domain name may have only lower-case letters, digits, - and _, at most 100 characters")
    if hasattr(nn.ParameterDict, name) or name in ("shared", "pooled"):
        raise ValueError(f"{name!r} is a reserved word: choose another domain name")
    return name


def _check_template(text: str) -> str:
    if text.count("{text}") != 1:
        raise ValueError("a template must contain {text} exactly once")
    return text


DomainName = Annotated[str, AfterValidator(_check_domain_name)]


class RunSettings(BaseModel):
    """All settings of a run; the same settings give the same run.

    Examples:
        >>> from moe import RunSettings
        >>> RunSettings(domains={"news": {"labels": ["down", "up"]}}).tasks_of("news")["news"].labels
        ('down', 'up')
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(
        13, ge=0, lt=2**31, description="seed of the initial weights and the order of rows; splits have separate seeds"
    )
    template: Annotated[str, AfterValidator(_check_template)] = Field(
        "{text}", description="neutral text around every input, in training and inference"
    )
    backbone: BackboneSettings = BackboneSettings()
    data: DataSettings = DataSettings()
    sample: SampleSettings | None = Field(None, description="use the synthetic sample for domains without a file")
    domains: dict[DomainName, DomainSettings] = Field(
        min_length=1, description="the domains, each with its tasks and experts"
    )
    lora: LoraSettings = LoraSettings()
    shared: SharedSettings | None = Field(
        None,
        description="an always-active expert, trained on all domains pooled or before; null: none. By default a "
        "classifier has one of rank and alpha 40 without dropout, and a language model none",
    )
    expert_init: ExpertInitSettings | None = Field(
        None,
        description="start the experts of domains that a trained mixture lacks from the average of that mixture's "
        "nearest experts, before they join it; null: fresh weights",
    )
    language: LanguageSettings | None = Field(
        None,
        description="train experts of a language model, with the backbone's own head; null: experts of a classifier",
    )
    distill: DistillSettings | None = Field(
        None, description="soft labels of larger models that every stage also learns; null: the labelled rows alone"
    )
    heads: HeadSettings = HeadSettings()
    gate: GateSettings = GateSettings()
    losses: LossSettings = LossSettings()
    dao: DAOSettings = DAOSettings()
    comparators: ComparatorSettings = ComparatorSettings()
    stages: StagesSettings = StagesSettings()
    track: tuple[Tracker, ...] = Field(
        (TENSORBOARD,),
        description="trackers that training steps are logged to, in addition to the log on disk; may be empty",
    )

    def tasks_of(self, domain: str) -> dict[str, TaskSettings]:
        """Tasks of a domain by name; a domain without `tasks` is a single task of the same name."""
        settings = self.domains[domain]
        return dict(settings.tasks) or {domain: settings}

    def questions_of(self, domain: str) -> dict[str, TaskSettings]:
        """Tasks of a domain, by name, whose rows are questions to a language model."""
        return {name: task for name, task in self.tasks_of(domain).items() if task.ask is not None}

    def rows_of(self, domain: str) -> dict[str, TaskSettings]:
        """Tasks of a domain whose rows the run reads: labelled ones, or the questions for a language model."""
        return self.tasks_of(domain) if self.language is None else self.questions_of(domain)

    def distilled_tasks(self, domain: str) -> tuple[str, ...]:
        """Tasks of a domain whose texts the teachers label."""
        if self.distill is None or not (self.distill.labelled or domain in self.distill.text):
            return ()
        return tuple(self.tasks_of(domain))

    @property
    def removes_across_tasks(self) -> bool:
        """Whether rows near a held-out text of another task are removed; by default, if a task has a target."""
        if self.data.across_tasks is not None:
            return self.data.across_tasks
        return any(task.has_target for domain in self.domains for task in self.rows_of(domain).values())

    def task_settings(self, domain: str, task: str | None = None) -> TaskSettings:
        """Settings of a task, by default of the domain's first.

        Raises:
            Fault: if the domain or the task is unknown.
        """
        if domain not in self.domains:
            raise Fault(f"one of the domains {', '.join(self.domains)}", repr(domain), suggest(domain, self.domains))
        tasks = self.tasks_of(domain)
        if task is not None and task not in tasks:
            raise Fault(f"one of {domain}'s tasks {', '.join(tasks)}", repr(task), suggest(task, tasks))
        return tasks[task] if task is not None else next(iter(tasks.values()))

    def domain_list(self) -> list[Domain]:
        """The domains with their tasks, labels and experts; those of a language model have no tasks."""
        tasks = {name: {} if self.language else self.tasks_of(name) for name in self.domains}
        return [
            Domain(
                name=name,
                tasks={task: its.labels for task, its in tasks[name].items()},
                role=domain.role,
                experts=domain.experts,
                target_tasks=tuple(task for task, its in tasks[name].items() if its.has_target),
                kinds={task: its.kind for task, its in tasks[name].items() if its.kind != CLASSES},
            )
            for name, domain in self.domains.items()
        ]

    def label_space(self) -> LabelSpace:
        """Labels of all tasks, and the head of each task."""
        return LabelSpace.from_domains(self.domain_list())

    def as_yaml(self) -> str:
        """YAML of the resolved settings, including defaults."""
        return dump_yaml(self.model_dump(mode="json"))


def load_run(path: Path | None = None, sets: Sequence[str] = ()) -> RunSettings:
    """Read a config, apply overrides, and check the result.

    Args:
        path: of the config; by default `configs/demo.yaml`.
        sets: overrides, `key=value` each, as on the command line after `--set`.

    Raises:
        Fault: if the config is invalid, with all errors at once.

    Examples:
        >>> from moe import load_run
        >>> load_run(sets=["lora.r=8"]).lora.r
        8
    """
    file = find_config(path)
    document = read_document(file)
    raw, positions = document.value, document.positions
    for override in sets:
        apply_override(raw, override, positions)
    raw["domains"] = resolve_domains(raw.get("domains"), file, positions)
    return parse_run(raw, str(file), positions)


def parse_run(raw: Mapping[str, Any], source: str, positions: Positions | None = None) -> RunSettings:
    """Validate raw settings, each by itself and against each other.

    Args:
        source: name of the config, for error messages.
        positions: where its values were written, for error messages.

    Raises:
        Fault: if they are invalid, with all errors at once.
    """
    run, errors = validate_settings(RunSettings, raw, positions)
    if run is None:
        raise ConfigFault(source, errors)
    run = _with_defaults(run, raw)
    if conflicts := find_conflicts(run):
        raise ConfigFault(source, conflicts)
    return run


def _with_defaults(run: RunSettings, raw: Mapping[str, Any]) -> RunSettings:
    """Fill in what a config leaves open and what depends on other settings."""
    if run.language is not None:  # whose experts have no prototypes, whatever the default of a classifier
        given_init = run.gate.init if "init" in run.gate.model_fields_set else "random"
        return run.model_copy(update={"gate": run.gate.model_copy(update={"init": given_init})})
    given = run.model_fields_set
    filled: dict[str, Any] = {}
    if "max_length" not in run.backbone.model_fields_set:
        filled["backbone"] = run.backbone.model_copy(update={"max_length": AUTO})
    if "shared" not in given:
        filled["shared"] = SHARED_EXPERT
    if "lora" not in given and filled.get("shared", run.shared) is not None:
        filled["lora"] = LORA_ON_SHARED
    if filled.get("shared", run.shared) is not None:
        given_keys = (raw.get("stages") or {}).get("expert") or {}
        expert = StageSettings.model_validate(fill_stage(given_keys, EXPERT_ON_SHARED))
        filled["stages"] = run.stages.model_copy(update={"expert": expert})
    return run.model_copy(update=filled)


def find_conflicts(run: RunSettings) -> list[str]:
    """Contradictions between settings of different parts, one sentence each."""
    conflicts = []
    try:
        run.label_space()
    except Fault as fault:
        conflicts.append(str(fault))
    experts = sum(domain.experts for domain in run.domains.values())
    groups = {"hard": 1, "team": len({domain.group for domain in run.domain_list()})}.get(run.gate.kind, experts)
    names = [name for domain in run.domain_list() for name in domain.expert_names]
    if clash := sorted({name for name in names if names.count(name) > 1}):
        conflicts.append(f"domains: two experts would have the name {clash[0]}; choose another name for a domain")
    if run.gate.top_k is not None and run.gate.top_k > groups:
        conflicts.append(f"gate.top_k is {run.gate.top_k}, but {run.gate.kind} gates have {groups} groups: lower it")
    if run.gate.fixed is not None and len(run.gate.fixed) != experts:
        conflicts.append(
            f"gate.fixed has {len(run.gate.fixed)} weights for {experts} experts: give one weight per expert"
        )
    if run.language is not None and (names := [name for name, domain in run.domains.items() if domain.unlabelled]):
        conflicts.append(f"domains.{names[0]}.unlabelled is for classifiers: use `corpus` for a language model")
    if run.distill is not None:
        conflicts += distill_conflicts(run.distill, run.domains)
    if run.distill is not None and run.language is not None:
        conflicts.append("distill is for classifiers: remove it, or remove `language`")
    if run.language is not None and run.expert_init is not None:
        conflicts.append("expert_init is for classifiers: remove it, or `language`")
    if run.language is not None and "general" in run.domains:
        conflicts.append("domains.general: this name is reserved for general text; choose another domain name")
    if run.language is not None and run.gate.init in ("centroid", "phatgoose"):
        conflicts.append(
            f"gate.init is {run.gate.init}, but experts of a language model have no prototypes: set it to arrow or "
            "random"
        )
    if run.gate.unit == "token" and run.language is None:
        conflicts.append("gate.unit is token, but classifiers are routed by text: set it to text")
    if run.losses.inner == "constant" and run.losses.classes == "dao" and run.dao.imbalance != "fixed":
        conflicts.append(
            f"dao.imbalance is {run.dao.imbalance}, but losses.inner is constant: "
            "set losses.inner to dao, or dao.imbalance to fixed"
        )
    conflicts += kind_conflicts(
        run.domain_list(),
        {"distill": run.distill is not None, "data.augmented": run.data.augmented},
        trains_scores="polarity" not in run.losses.without,
    )
    for domain in run.domains:
        if domain in re.findall(r"\w+", run.template.lower()):
            conflicts.append(
                f"template contains the domain name {domain}, which reveals the domain to the router: "
                "use a neutral template"
            )
        conflicts += _question_conflicts(run, domain) if run.language else _label_conflicts(run, domain)
    return conflicts + _single_pass_conflicts(run)


def _single_pass_conflicts(run: RunSettings) -> list[str]:
    """Conflicts of losses whose gradients in the experts are needed before the step's loss is known.

    With micro-batches the graph is freed by then; with sharded weights no gradient can be computed outside `backward`.
    """
    losses, labelled = run.losses, run.language is None
    needs: list[tuple[str, tuple[str, ...]]] = []  # a setting, and the stages that it applies to
    if run.dao.objective == "validation" and "dao" in (losses.inner if labelled else None, losses.outer):
        needs.append(("dao.objective is validation", ("shared", "expert", "joint", "instruct")))
    if losses.measured == "parameters" and labelled and losses.inner in ("dao", "gradnorm", "pcgrad"):
        needs.append(("losses.measured is parameters", ("shared", "expert", "joint")))
    if losses.outer == "pcgrad":
        needs.append(("losses.outer is pcgrad", ("joint", "instruct")))
    conflicts = [
        f"stages.{stage}.accumulate is {accumulate}, but {setting}, which needs a step in a single pass: set it to 1"
        for setting, stages in needs
        for stage in stages
        if (accumulate := getattr(run.stages, stage).accumulate) > 1
    ]
    if not run.stages.shard:
        return conflicts
    if run.backbone.quantization != "none":
        needs.append((f"backbone.quantization is {run.backbone.quantization}", ()))
    return conflicts + [
        f"stages.shard is true, but {setting}, which needs unsharded weights: set stages.shard to false"
        for setting, _ in needs
    ]


def _question_conflicts(run: RunSettings, domain: str) -> list[str]:
    return [
        f"domains.{domain}: task {name} has no question template for the language model: set `ask`"
        for name, task in run.domains[domain].tasks.items()
        if task.ask is None
    ]


def _label_conflicts(run: RunSettings, domain: str) -> list[str]:
    conflicts = [
        f"domains.{domain}: task {name} has no labels: list them in the order of the logits"
        for name, task in run.tasks_of(domain).items()
        if not task.labels and task_kind(task.kind).has_labels
    ]
    return conflicts + [
        f"domains.{domain}: task {name} has `ask`, which is for language models: remove it, or add `language: {{}}`"
        for name in run.questions_of(domain)
    ]
