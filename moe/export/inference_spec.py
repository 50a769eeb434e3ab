"""Inference specification `reading.json`: how other programs turn an exported model's outputs into predictions.

It holds labels, tasks, prompt template, maximum length and temperatures.
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
    """One task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: tuple[str, ...] = Field(description="in the order of its probabilities")
    domain: str
    head: str = Field(description="its classification head, a key of `heads`")
    columns: tuple[int, ...] = Field(description="indices of its labels' logits in the head's output")
    temperature: float = Field(description="divisor of the logits; 1 without calibration")
    sign: tuple[str, str] | None = Field(description="its negative and its positive label, if there are any")


class DomainInferenceSpec(BaseModel):
    """One domain; its index in the list is its number in the graph's input."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    experts: tuple[str, ...]
    task: str | None = Field(description="task to predict if the router prefers this domain")


class InferenceSpec(BaseModel):
    """Content of `reading.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field(description="prompt template; {text} is replaced by the text before tokenization")
    max_length: int = Field(description="maximum number of tokens, special tokens included")
    pooling: str = Field(description="`mean` of the hidden states of real tokens, or the `last` one")
    experts: tuple[str, ...] = Field(description="in the order of the routing weights")
    domains: tuple[DomainInferenceSpec, ...]
    tasks: dict[str, TaskInferenceSpec]
    heads: dict[str, str] = Field(description="prefix of each classification head's tensors in heads.safetensors")
    polarity: str | None = Field(description="activation that bounds the polarity head's output; None without a head")


def build_inference_spec(source: ExportSource) -> InferenceSpec:
    """Build the inference specification of a model."""
    model = source.model
    space, calibration = model.labels, source.calibration
    tasks = {
        task: TaskInferenceSpec(
            labels=tuple(label for label, used in zip(space.heads[head], space.mask(task), strict=True) if used),
            domain=space.domain_by_task[task],
            head=head,
            columns=tuple(i for i, used in enumerate(space.mask(task)) if used),
            temperature=calibration.temperature(task) if calibration else 1.0,
            sign=next((pair for pair in POLARITY_LABELS if set(pair) <= set(space.tasks[task])), None),
        )
        for task, head in space.head_by_task.items()
    }
    domains = tuple(
        DomainInferenceSpec(
            name=domain.name, experts=domain.expert_names, task=next(iter(space.tasks_of(domain.name)), None)
        )
        for domain in model.trained_domains
    )
    heads = next((module for module in model.heads.modules() if isinstance(module, Heads)), None)
    return InferenceSpec(
        template=source.template,
        max_length=source.max_length,
        pooling=model.pooling,
        experts=model.bank.routed_experts,
        domains=domains,
        tasks=tasks,
        heads={name: f"classes.{head_key(name)}" for name in space.heads},
        polarity=heads.bound if heads is not None and heads.polarity is not None else None,
    )


def write_heads(folder: Path, source: ExportSource, spec: AdapterSpec) -> bool:
    """Write the heads of an adapter and the inference specification; return whether there are heads."""
    heads = heads_for(source.model, spec)
    if heads is None:
        return False
    save_tensors(folder / HEADS_FILE, heads.state_dict())
    write_json(folder / SPEC_FILE, build_inference_spec(source).model_dump(mode="json"))
    return True
