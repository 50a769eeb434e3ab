"""How scores are read without FinMoE: `reading.json`, with labels, tasks, template, length and temperatures.

What gives the scores, a graph or a folder of weights, is told by the modules beside.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from experts.atomic_io import write_json
from experts.safetensors_io import save_tensors
from moe.export.selection import AdapterSpec, ExportSource, heads_for
from moe.inference.predictor import POLARITY_LABELS
from moe.model.heads import Heads, head_key

SPEC_FILE, HEADS_FILE = "reading.json", "heads.safetensors"


class TaskInferenceSpec(BaseModel):
    """One task's answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: tuple[str, ...] = Field(description="in the order of its probabilities")
    domain: str
    head: str = Field(description="the class head that answers, by its name in `heads`")
    columns: tuple[int, ...] = Field(description="which of the head's logits are its labels'")
    temperature: float = Field(description="the logits are divided by it; 1 where nothing was calibrated")
    sign: tuple[str, str] | None = Field(description="its negative and its positive label, if it has such")


class DomainInferenceSpec(BaseModel):
    """One domain; its place in the list is its number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    experts: tuple[str, ...]
    task: str | None = Field(description="the task that answers where this domain is the most probable")


class InferenceSpec(BaseModel):
    """What `reading.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field(description="the text takes the place of {text} before it is tokenized")
    max_length: int = Field(description="tokens that a text is cut to, special ones included")
    pooling: str = Field(description="`mean` of the real tokens' states, or the `last` one's")
    experts: tuple[str, ...] = Field(description="in the order of the shares")
    domains: tuple[DomainInferenceSpec, ...]
    tasks: dict[str, TaskInferenceSpec]
    heads: dict[str, str] = Field(description="by class head, where its tensors stand in heads.safetensors")
    polarity: str | None = Field(description="how the polarity head's output is bounded; None where there is none")


def build_inference_spec(source: ExportSource) -> InferenceSpec:
    """How a model's scores are read."""
    model = source.model
    space, calibration = model.labels, source.calibration
    tasks = {
        task: TaskInferenceSpec(
            labels=tuple(label for label, own in zip(space.heads[head], space.mask(task), strict=True) if own),
            domain=space.domain_by_task[task],
            head=head,
            columns=tuple(i for i, own in enumerate(space.mask(task)) if own),
            temperature=calibration.temperature(task) if calibration else 1.0,
            sign=next((pair for pair in POLARITY_LABELS if set(pair) <= set(space.tasks[task])), None),
        )
        for task, head in space.head_by_task.items()
    }
    domains = tuple(
        DomainInferenceSpec(name=one.name, experts=one.expert_names, task=next(iter(space.tasks_of(one.name)), None))
        for one in model.trained_domains
    )
    bound = _bound(source)
    return InferenceSpec(
        template=source.template,
        max_length=source.max_length,
        pooling=model.pooling,
        experts=model.bank.routed_experts,
        domains=domains,
        tasks=tasks,
        heads={name: f"classes.{head_key(name)}" for name in space.heads},
        polarity=bound,
    )


def _bound(source: ExportSource) -> str | None:
    heads = next((one for one in source.model.heads.modules() if isinstance(one, Heads)), None)
    return heads.bound if heads is not None and heads.polarity is not None else None


def write_heads(folder: Path, source: ExportSource, choice: AdapterSpec) -> bool:
    """Write the heads that answer for a choice, and how they are read; False where there are none."""
    heads = heads_for(source.model, choice)
    if heads is None:
        return False
    save_tensors(folder / HEADS_FILE, heads.state_dict())
    write_json(folder / SPEC_FILE, build_inference_spec(source).model_dump(mode="json"))
    return True
