"""`--to peft`: each expert, or several weighed into one, as a plain PEFT adapter that PEFT, vLLM and LoRAX load.

A shared expert is in every one of them, so that backbone and adapter compute what the mixture does when it is pinned
there. Whether vLLM takes an adapter is told by `moe.export.vllm_rules`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from experts.adapter import portable_config
from experts.atomic_io import read_json, atomic_folder, write_text
from experts.expert_io import ADAPTER, ADAPTER_CONFIG, README, write_adapter
from experts.gated_linear import in_out_features
from experts.lora import Adapter
from experts.lora_delta import LowRankUpdate, peft_tensors
from moe.export.hub import public_name
from moe.export.inference_spec import write_heads
from moe.export.selection import AdapterSpec, ExportSource, pinned_update
from moe.export.vllm_rules import VLLM_VERSION, smallest_max_lora_rank, find_violations

AdapterReport = dict[str, Any]


def write_adapters(out: Path, source: ExportSource, choices: Sequence[AdapterSpec], overwrite: bool) -> list[AdapterReport]:
    """Write a folder a choice, below one folder, whole or not at all.

    Returns:
        of each `name`, `rank`, `layers`, `heads`; of a causal language model also `vllm`, the rules that it breaks, and
        `max_lora_rank`, what vLLM has to be started with.

    Raises:
        Fault: when the folder exists and `overwrite` is false, or cannot be written.
    """
    with atomic_folder(out, overwrite) as temporary:
        return [_write(temporary / one.name, source, one) for one in choices]


def _write(folder: Path, source: ExportSource, choice: AdapterSpec) -> AdapterReport:
    bank = source.model.bank
    update = fill_missing_layers(source, pinned_update(source.model, choice))
    like = bank.adapters[next(iter(choice.weights))].adapter.peft_config
    like = like | {"task_type": "CAUSAL_LM"} if source.causal else like
    content = portable_config(bank.layer_map, like, update, public_name(source.model.loaded_backbone.id))
    write_adapter(folder, Adapter(content, {}), dict(peft_tensors(update, bank.key_prefix)))
    found: AdapterReport = {"name": choice.name, "rank": update.rank, "layers": len(update.layers)}
    found["heads"] = write_heads(folder, source, choice)
    if source.causal:
        found |= {"vllm": check_vllm_rules(folder), "max_lora_rank": smallest_max_lora_rank(update.rank)}
    write_text(folder / README, _readme(source, choice, found))
    return found


def fill_missing_layers(source: ExportSource, update: LowRankUpdate) -> LowRankUpdate:
    """The update with zeros where no expert is, in layers of the kinds that it touches.

    LoRAX reads a kind of layer in all layers or in none; a trunk without experts would lose the whole kind.
    """
    linear = source.model.bank.layer_map.linear_layers
    kinds = {path.rsplit(".", 1)[-1] for path in update.layers}
    return update.with_zero_layers({path: in_out_features(one) for path, one in linear.items() if path.rsplit(".", 1)[-1] in kinds})


def check_vllm_rules(folder: Path) -> list[str]:
    """The rules of vLLM that an adapter's folder breaks, read from its files."""
    with safe_open(folder / ADAPTER, framework="pt") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return find_violations(read_json(folder / ADAPTER_CONFIG), shapes)


def describe_spec(choice: AdapterSpec) -> str:
    """A choice in words."""
    if choice.method is None:
        return f"the expert `{choice.name}`"
    parts = ", ".join(f"{weight:g} of `{name}`" for name, weight in choice.weights.items())
    return f"{parts}, merged by PEFT's `{choice.method}`"


def _readme(source: ExportSource, choice: AdapterSpec, found: Mapping[str, Any]) -> str:
    shared = [name for name in source.model.bank.shared_experts if name not in choice.weights]
    always = f" The shared expert {', '.join(shared)} is in it." if shared else ""
    head = "\n`heads.safetensors` holds its heads, `reading.json` says how they are read.\n" if found["heads"] else ""
    return f"""---
library_name: peft
base_model: {public_name(source.model.loaded_backbone.id)}
tags: [lora, finance, finmoe]
---
# {choice.name}

A LoRA adapter of rank {found["rank"]} for `{public_name(source.model.loaded_backbone.id)}`: {describe_spec(choice)}.{always}
Backbone and adapter compute what the mixture does when it is pinned there; its router is not in it.

```python
from peft import PeftModel

model = PeftModel.from_pretrained(backbone, "FOLDER")
```
{head}{_serving(choice, found)}"""


def _serving(choice: AdapterSpec, found: Mapping[str, Any]) -> str:
    if "vllm" not in found:
        return ""
    if found["vllm"]:
        return f"\n{VLLM_VERSION} does not load it: {'; '.join(found['vllm'])}.\n"
    return f"""
```bash
vllm serve BACKBONE --enable-lora --max-lora-rank {found["max_lora_rank"]} --lora-modules {choice.name}=FOLDER
```
"""
