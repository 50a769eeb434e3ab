"""`--to vllm`: each expert as an adapter with its classification head, for vLLM and PEFT's sequence classification.

The head is the `score` layer of transformers' sequence classifiers of decoders, a saved module in PEFT's words. These
classifiers read the state of a text's last token and have no bias, so the model must have been trained that way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification, PreTrainedModel

from experts.adapter import portable_config
from experts.adapter_bank import PREFIX
from experts.atomic_io import atomic_folder, write_text
from experts.errors import Fault
from experts.expert_io import README, write_adapter
from experts.lora import Adapter
from experts.lora_delta import peft_tensors
from moe.export.inference_spec import build_export_spec
from moe.export.peft import check_vllm_rules, describe_spec, fill_missing_layers
from moe.export.selection import AdapterSpec, ExportSource, heads_for, pinned_update
from moe.export.vllm_rules import smallest_max_lora_rank
from moe.inference.spec import InferenceSpec, TaskInferenceSpec
from moe.model.backbone_files import public_name

HEAD = "score"
"""Name of the head in transformers' sequence classifiers of decoders."""


@dataclass(frozen=True)
class ExportedClassifier:
    """An adapter with the head of one task.

    Args:
        name: of the subfolder.
        task: the task that it answers.
        labels: in the order of its logits.
        rank: rank of its updates.
        vllm: rules of vLLM that it breaks; empty if vLLM loads it.
        max_lora_rank: smallest `--max-lora-rank` with which vLLM loads it; None if there is none.
    """

    name: str
    task: str
    labels: Sequence[str]
    rank: int
    vllm: Sequence[str]
    max_lora_rank: int | None


@dataclass(frozen=True)
class ExportedClassifiers:
    """What `--to vllm` wrote."""

    classifiers: Sequence[ExportedClassifier]


def write_classifiers(
    out: Path, source: ExportSource, specs: Sequence[AdapterSpec], overwrite: bool
) -> ExportedClassifiers:
    """Write one subfolder per expert and task, all of them atomically; tasks about a target, or with a score alone, are
    left out.

    Raises:
        Fault: if the model computes something that a sequence classifier of its family does not, no task is left, the
            folder exists and `overwrite` is false, or it cannot be written.
    """
    check_classifier(source)
    spec = build_export_spec(source)
    chosen = [(adapter, task) for adapter in specs for task in _tasks_of(adapter, source, spec)]
    if not chosen:
        names = ", ".join(adapter.name for adapter in specs)
        expected = "an expert with a class head for a task about whole texts"
        raise Fault(expected, f"{names}, without one", "export the experts of such domains, or use --to onnx")
    with atomic_folder(out, overwrite) as temporary:
        return ExportedClassifiers([_write(temporary, source, adapter, task, spec) for adapter, task in chosen])


def check_classifier(source: ExportSource) -> None:
    """Check that a sequence classifier of transformers can compute the same as this model.

    Raises:
        Fault: if it is a language model, or has another pooling or other heads.
    """
    if source.language:
        raise Fault("a classification model", f"a language model at {source.folder}", "use --to peft")
    other = "or use --to onnx or hub-folder, which contain the whole model"
    if not _has_plain_head(source.model.backbone):
        family = source.model.backbone.config.model_type
        expected = f"a decoder whose classifier in transformers is one layer, {HEAD}"
        raise Fault(expected, f"the family {family}", f"train the experts on a decoder, {other}")
    if source.model.pooling != "last":
        remedy = f"train the experts with backbone.pooling: last, {other}"
        raise Fault("backbone.pooling last, as in transformers' classifiers", source.model.pooling, remedy)
    weights = [name for name in source.model.heads.state_dict() if "polarity" not in name]
    if not all(name.endswith(".1.weight") for name in weights):
        remedy = f"train the experts with heads.kind: linear and heads.bias: false, {other}"
        raise Fault("linear heads without a bias, as in transformers' classifiers", "other heads", remedy)


def _has_plain_head(backbone: PreTrainedModel) -> bool:
    """Whether the family's sequence classifier is its backbone and a linear layer `score` without a bias."""
    if type(backbone.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return False
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(backbone.config)
    head = getattr(classifier, HEAD, None)
    parts = {name for name, module in classifier.named_children() if any(True for _ in module.parameters())}
    return isinstance(head, nn.Linear) and head.bias is None and parts == {HEAD, classifier.base_model_prefix}


def _tasks_of(adapter: AdapterSpec, source: ExportSource, spec: InferenceSpec) -> list[str]:
    """The tasks of an adapter with labels: those of its expert's domain; of a merge or a shared expert, all."""
    if heads_for(source.model, adapter) is None:
        return []
    domains = [domain.name for domain in spec.domains if adapter.name in domain.experts]
    tasks = [task for domain in domains for task in spec.tasks_of(domain)] or list(spec.tasks)
    return [task for task in tasks if spec.tasks[task].labels and not spec.tasks[task].target]


def _write(out: Path, source: ExportSource, adapter: AdapterSpec, task: str, spec: InferenceSpec) -> ExportedClassifier:
    name = adapter.name if len(_tasks_of(adapter, source, spec)) == 1 else f"{adapter.name}-{task}"
    folder, bank, backbone = out / name, source.model.bank, source.model.loaded_backbone
    update = fill_missing_layers(source, pinned_update(source.model, adapter))
    reference = bank.adapters[next(iter(adapter.weights))].adapter.peft_config | {"task_type": "SEQ_CLS"}
    config = portable_config(bank.layer_map, reference, update, public_name(backbone.id.name))
    prefix = f"{PREFIX}{source.model.backbone.base_model_prefix}."
    weights = dict(peft_tensors(update, prefix)) | {f"{PREFIX}{HEAD}.weight": _head(source, adapter, task, spec)}
    write_adapter(folder, Adapter(config | {"modules_to_save": [HEAD]}, {}), weights)
    exported = ExportedClassifier(
        name=name,
        task=task,
        labels=spec.tasks[task].labels,
        rank=update.rank,
        vllm=check_vllm_rules(folder),
        max_lora_rank=smallest_max_lora_rank(update.rank),
    )
    write_text(folder / README, _readme(source, adapter, exported))
    return exported


def _head(source: ExportSource, adapter: AdapterSpec, task: str, spec: InferenceSpec) -> Tensor:
    """The rows (K, D) of the head that are the task's labels, divided by the task's temperature."""
    heads = heads_for(source.model, adapter)
    assert heads is not None
    own: TaskInferenceSpec = spec.tasks[task]
    assert own.head is not None
    weight: Tensor = heads.state_dict()[f"{spec.heads[own.head]}.1.weight"]  # (L, D)
    return weight[list(own.columns)] / own.temperature


def _readme(source: ExportSource, adapter: AdapterSpec, exported: ExportedClassifier) -> str:
    backbone = public_name(source.model.loaded_backbone.id.name)
    count, pad = len(exported.labels), source.model.loaded_backbone.tokenizer.pad_token_id
    return f"""---
library_name: peft
base_model: {backbone}
tags: [lora, finance, finmoe, text-classification]
---
# {exported.name}

A LoRA adapter of rank {exported.rank} for `{backbone}` with a classification head.
It contains {describe_spec(adapter)} and answers the task `{exported.task}`.
The labels of its logits, in order: {", ".join(exported.labels)}.
Each text is put into the template `{source.template}` and truncated to {source.max_length} tokens.

```python
from peft import AutoPeftModelForSequenceClassification

model = AutoPeftModelForSequenceClassification.from_pretrained("FOLDER", num_labels={count}, pad_token_id={pad})
```
{_vllm_section(exported, backbone, pad)}"""


def _vllm_section(exported: ExportedClassifier, backbone: str, pad: int) -> str:
    if exported.vllm:
        return f"\nvLLM cannot load it: {'; '.join(exported.vllm)}.\n"
    count, rank, name = len(exported.labels), exported.max_lora_rank, exported.name
    return f"""
vLLM serves such adapters since September 2026, on a classifier with as many labels, whose own head is not used:

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{backbone}", num_labels={count}, pad_token_id={pad})
model.save_pretrained("CLASSIFIER")
AutoTokenizer.from_pretrained("{backbone}").save_pretrained("CLASSIFIER")
```

```bash
vllm serve CLASSIFIER --runner pooling --enable-lora --max-lora-rank {rank} --lora-modules {name}=FOLDER
```
"""
