"""`--to peft`: each expert, or several merged into one, as a plain adapter that PEFT, vLLM and LoRAX can load.

Every adapter includes the shared experts, so that backbone and adapter compute the same as the mixture restricted to
that expert. `moe.export.vllm_rules` checks whether vLLM can load it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from experts.adapter import portable_config
from experts.atomic_io import atomic_folder, read_json, write_text
from experts.expert_io import ADAPTER, ADAPTER_CONFIG, README, write_adapter
from experts.gated_linear import in_out_features
from experts.lora import Adapter
from experts.lora_delta import LowRankUpdate, peft_tensors
from moe.export.inference_spec import write_heads
from moe.export.selection import AdapterSpec, ExportSource, pinned_update
from moe.export.vllm_rules import VLLM_VERSION, find_violations, smallest_max_lora_rank
from moe.model.backbone_files import public_name


@dataclass(frozen=True)
class ExportedAdapter:
    """An adapter of a classification or masked language model.

    Args:
        name: of the expert or the merge, and of the subfolder.
        rank: rank of its updates.
        layers: layers with an update.
        heads: whether classification heads are beside it.
    """

    name: str
    rank: int
    layers: int
    heads: bool


@dataclass(frozen=True)
class ExportedCausalAdapter(ExportedAdapter):
    """An adapter of a causal language model.

    Args:
        vllm: rules of vLLM that it breaks; empty if vLLM loads it.
        max_lora_rank: smallest `--max-lora-rank` with which vLLM loads it; None if there is none.
    """

    vllm: Sequence[str]
    max_lora_rank: int | None


@dataclass(frozen=True)
class ExportedAdapters:
    """What `--to peft` wrote.

    Args:
        adapters: in the order of the mixture's experts.
    """

    adapters: Sequence[ExportedAdapter]


def write_adapters(
    out: Path, source: ExportSource, specs: Sequence[AdapterSpec], overwrite: bool
) -> list[ExportedAdapter]:
    """Write one subfolder per adapter, all of them atomically.

    Raises:
        Fault: if the folder exists and `overwrite` is false, or it cannot be written.
    """
    with atomic_folder(out, overwrite) as temporary:
        return [_write(temporary / spec.name, source, spec) for spec in specs]


def _write(folder: Path, source: ExportSource, spec: AdapterSpec) -> ExportedAdapter:
    bank = source.model.bank
    update = fill_missing_layers(source, pinned_update(source.model, spec))
    reference = bank.adapters[next(iter(spec.weights))].adapter.peft_config
    reference = reference | {"task_type": "CAUSAL_LM"} if source.causal else reference
    config = portable_config(bank.layer_map, reference, update, public_name(source.model.loaded_backbone.id.name))
    write_adapter(folder, Adapter(config, {}), dict(peft_tensors(update, bank.key_prefix)))
    heads = write_heads(folder, source, spec)
    exported = ExportedAdapter(spec.name, rank=update.rank, layers=len(update.layers), heads=heads)
    if source.causal:
        exported = ExportedCausalAdapter(
            **vars(exported), vllm=check_vllm_rules(folder), max_lora_rank=smallest_max_lora_rank(update.rank)
        )
    write_text(folder / README, _readme(source, spec, exported))
    return exported


def fill_missing_layers(source: ExportSource, update: LowRankUpdate) -> LowRankUpdate:
    """Add zero updates for layers without experts, such as the trunk's, of the kinds that the update covers.

    LoRAX loads a kind of layer in all layers or in none.
    """

    def kind(path: str) -> str:
        return path.rsplit(".", 1)[-1]

    linear_layers = source.model.bank.layer_map.linear_layers
    kinds = {kind(path) for path in update.layers}
    sizes = {path: in_out_features(layer) for path, layer in linear_layers.items() if kind(path) in kinds}
    return update.with_zero_layers(sizes)


def check_vllm_rules(folder: Path) -> list[str]:
    """Return the rules of vLLM that the files of an adapter break."""
    with safe_open(folder / ADAPTER, framework="pt") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return find_violations(read_json(folder / ADAPTER_CONFIG), shapes)


def describe_spec(spec: AdapterSpec) -> str:
    """Describe an adapter in words."""
    if spec.method is None:
        return f"the expert `{spec.name}`"
    parts = ", ".join(f"{weight:g} of `{name}`" for name, weight in spec.weights.items())
    return f"{parts}, merged by PEFT's `{spec.method}`"


def _readme(source: ExportSource, spec: AdapterSpec, exported: ExportedAdapter) -> str:
    shared = [name for name in source.model.bank.shared_experts if name not in spec.weights]
    shared_text = f" and the shared expert {', '.join(shared)}" if shared else ""
    heads = ""
    if exported.heads:
        heads = "\n`heads.safetensors` contains the classification heads, `reading.json` specifies how to apply them.\n"
    return f"""---
library_name: peft
base_model: {public_name(source.model.loaded_backbone.id.name)}
tags: [lora, finance, finmoe]
---
# {spec.name}

A LoRA adapter of rank {exported.rank} for `{public_name(source.model.loaded_backbone.id.name)}`.
It contains {describe_spec(spec)}{shared_text}.
Backbone and adapter compute the same as the mixture restricted to it; the router is not included.

```python
from peft import PeftModel

model = PeftModel.from_pretrained(backbone, "FOLDER")
```
{heads}{_vllm_section(exported)}"""


def _vllm_section(exported: ExportedAdapter) -> str:
    if not isinstance(exported, ExportedCausalAdapter):
        return ""
    if exported.vllm:
        return f"\n{VLLM_VERSION} cannot load it: {'; '.join(exported.vllm)}.\n"
    return f"""
```bash
vllm serve BACKBONE --enable-lora --max-lora-rank {exported.max_lora_rank} --lora-modules {exported.name}=FOLDER
```
"""
