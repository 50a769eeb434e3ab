"""Backbones, texts and random mixtures that every part of the CUDA check uses; full size on a GPU, else toy size."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from paired_timing import load_texts
from scale import SHAPES as LARGE
from scale import VOCABULARY
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from experts.adapter import build_adapter
from experts.lora import LayerMap, LoraSettings
from moe.checkpoints.mixture import build_mixture, write_mixture
from moe.checkpoints.mixture_card import DomainCard, MixtureCard
from moe.config.run import RunSettings, load_run
from moe.inference.load_mixture import load_mixture
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.backbone_files import SHIPPED_PACKAGE
from moe.model.heads import HeadSettings
from moe.model.mixture import Mixture
from moe.runs.model_ref import resolve
from moe.runs.versions import package_versions
from router.gate_settings import GateSettings

Size = Literal["full", "toy"]
DOMAINS = ("news", "forum", "macro", "micro", "quant")
ENCODER, DECODER = LARGE["encoder"], LARGE["decoder"]
ShapeName = Literal["bert", "llama", "bert-110m", "llama-1b", "glm-9b"]
SHAPES: dict[ShapeName, tuple[str, dict[str, int]]] = {
    "bert": (
        "bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "llama": (
        "llama",
        {
            "hidden_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "intermediate_size": 1408,
        },
    ),
    "bert-110m": (ENCODER[0], ENCODER[1] | {"num_attention_heads": 12, "vocab_size": VOCABULARY}),
    "llama-1b": (DECODER[0], DECODER[1] | {"vocab_size": VOCABULARY}),
    "glm-9b": (
        "glm4",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "intermediate_size": 13696,
            "vocab_size": 151552,
        },
    ),
}
"""Model type and sizes of the random backbones: MiniLM's, a small decoder, BERT-base's, TinyLlama's and GLM-4's."""
TOY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
}
"""Sizes at toy size, of those that a shape has."""
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")


@dataclass(frozen=True)
class Precision:
    """A device and the precision of the frozen weights on it."""

    name: str
    device: str
    dtype: str = "float32"
    quantization: str = "none"

    @property
    def overrides(self) -> tuple[str, ...]:
        """The backbone settings that choose it, as after `--set`."""
        settings = {"device": self.device, "dtype": self.dtype, "quantization": self.quantization}
        return tuple(f"backbone.{key}={value}" for key, value in settings.items())

    @property
    def missing(self) -> str | None:
        """Why it cannot run here; None if it can."""
        if self.quantization != "none" and find_spec("bitsandbytes") is None:
            return "the package bitsandbytes is not installed"
        return None


@dataclass(frozen=True)
class Bench:
    """What a part gets: a folder for its files, the size of its models, and the device that is checked."""

    folder: Path
    size: Size
    device: str

    @property
    def texts(self) -> list[str]:
        """Texts of the synthetic sample."""
        return load_texts(512 if self.size == "full" else 24)

    @cached_property
    def reference(self) -> Precision:
        """The CPU in fp32."""
        return Precision("cpu fp32", "cpu")

    @property
    def precisions(self) -> list[Precision]:
        """What is compared with the reference."""
        fp32 = Precision(f"{self.device} fp32", self.device)
        return [
            fp32,
            replace(fp32, name=f"{self.device} bf16", dtype="bfloat16"),
            replace(fp32, name=f"{self.device} nf4", dtype="bfloat16", quantization="nf4"),
        ]

    @property
    def encoder(self) -> str:
        """The shipped backbone; a random one at toy size, or where it is not installed."""
        if self.size == "full" and find_spec(SHIPPED_PACKAGE) is not None:
            return "default"
        return self.backbone("bert")

    @property
    def decoder(self) -> str:
        """A random decoder with a language-model head."""
        return self.backbone("llama", language=True)

    def backbone(self, name: ShapeName, language: bool = False) -> str:
        """Write a random backbone of a shape and a tokenizer of whole words, unless it is there; return its folder.

        The large ones have weights in bfloat16, drawn on the checked device.
        """
        folder = self.folder / f"{name}-{self.size}{'-language' * language}"
        if (folder / "config.json").is_file():
            return str(folder)
        words = sorted({word for text in load_texts(2000) for word in re.findall(r"\w+|[^\w\s]+", text)})
        vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words))}
        family, sizes = SHAPES[name]
        sizes = {"vocab_size": len(vocabulary)} | sizes
        if self.size == "toy":
            sizes |= {key: value for key, value in TOY.items() if key in sizes} | {"vocab_size": len(vocabulary)}
        ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        config = AutoConfig.for_model(family, max_position_embeddings=512, **ids, **sizes)
        torch.manual_seed(0)
        if language:
            model: Any = AutoModelForCausalLM.from_config(config)
            model.lm_head.weight.data.mul_(10)  # else the next token's distribution is almost uniform
        elif name == "bert":
            model = AutoModel.from_config(config)
        else:
            with torch.device(self.device):
                model = AutoModel.from_config(config, dtype=torch.bfloat16)
        word_tokenizer(vocabulary).save_pretrained(folder)
        model.save_pretrained(folder)
        return str(folder)

    def run_settings(self, *sets: str, dropout: float = 0.0) -> RunSettings:
        """Return a run on the synthetic sample with an expert per domain and without a shared one."""
        fixed = {
            "backbone.name": self.encoder,
            "backbone.max_length": "64",
            "backbone.trunk_depth": "1",
            "sample.rows": "1500" if self.size == "full" else "120",
            "shared": "null",
            "domains": json.dumps(DOMAINS),
            **dict.fromkeys(("lora.dropout", "gate.dropout", "heads.dropout"), str(dropout)),
        }
        return load_run(sets=(*(f"{key}={value}" for key, value in fixed.items()), *sets))

    def save_classifier(self, kind: str, dropout: float = 0.0) -> Path:
        """Write a random mixture of the run's domains with this kind of gate, and return its folder."""
        run = self.run_settings(f"gate.kind={kind}", dropout=dropout)
        domains = [
            DomainCard(name=each.name, role=f"role{i // 2}", experts=each.expert_names, tasks=each.tasks)
            for i, each in enumerate(run.domain_list())
        ]
        lora = LoraSettings(r=16, alpha=16, dropout=dropout)
        return self._save(f"{kind}-{dropout}", run.backbone, domains, run.gate, run.heads, lora, language=False)

    def save_language_model(self) -> Path:
        """Write a random mixture that routes tokens, and return its folder."""
        settings = BackboneSettings(name=self.decoder, trunk_depth=1, max_length=64)
        domains = [DomainCard(name=name, role=name, experts=(name,), tasks={}) for name in DOMAINS]
        gate = GateSettings(unit="token", dropout=0.0)
        lora = LoraSettings(r=16, alpha=16, dropout=0.0)
        return self._save("language-model", settings, domains, gate, HeadSettings(), lora, language=True)

    def _save(
        self,
        name: str,
        settings: BackboneSettings,
        domains: list[DomainCard],
        gate: GateSettings,
        heads: HeadSettings,
        lora: LoraSettings,
        *,
        language: bool,
    ) -> Path:
        folder = self.folder / f"{name}-{self.size}"
        if folder.is_dir():
            return folder
        settings = settings.model_copy(update={"dtype": "float32"})
        backbone = load_backbone(settings, torch.device("cpu"), lm_head=language)
        adapter = build_adapter(LayerMap.from_model(backbone.model), lora, settings.trunk_depth)
        names = [expert for domain in domains for expert in domain.experts]
        card = MixtureCard(
            stage="benchmark",
            backbone=backbone.id,
            backbone_settings=settings,
            template="{text}",
            domains=tuple(domains),
            shared=(),
            layers=dict.fromkeys(names, adapter.layers),
            gate=gate,
            heads=heads,
            polarity=not language,
            language=language,
            seed=0,
            versions=package_versions(),
        )
        model = build_mixture(card, backbone, dict.fromkeys(names, adapter.peft_config))
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for key, parameter in model.expert_parameters().items():
                if "lora_B" in key:  # zero in a fresh expert
                    parameter.normal_(std=0.05, generator=random)
            for parameter in model.heads.parameters():
                parameter.normal_(std=0.2, generator=random)
        spread_routing(model.eval(), self.texts)
        write_mixture(folder, model, card, config="", metrics={})
        return folder


@torch.no_grad()
def spread_routing(model: Mixture, texts: list[str]) -> None:
    """Draw the router's last layer so that texts, or tokens, differ: its logits have mean 0 and deviation 1.5 on texts.

    A fresh router weights all experts equally, and one that is only drawn sends almost every text to the same expert.
    """
    assert model.gate is not None
    layer = model.gate.net[-1]
    assert isinstance(layer, torch.nn.Linear)
    layer.weight.normal_(generator=torch.Generator().manual_seed(1))
    layer.bias.zero_()
    batch = next(token_batches(model, texts))
    _, routing = model.encode_trunk(batch["input_ids"], batch["attention_mask"])
    assert routing is not None
    logits = routing.logits.flatten(0, -2)  # (N, G + E), linear in the layer
    scale = 1.5 / logits.std(0)  # (G + E,)
    layer.weight.mul_(scale[:, None])
    layer.bias.copy_(-logits.mean(0) * scale)


def load_in(folder: Path, precision: Precision) -> Mixture:
    """Load a mixture on a device in a precision."""
    return load_mixture(resolve(folder), precision.overrides, language=True).model


def token_batches(model: Mixture, texts: list[str], size: int = 64) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the token ids and attention mask of texts, in batches in order, on the model's device."""
    for i in range(0, len(texts), size):
        out = model.loaded_backbone.tokenizer(
            texts[i : i + size], padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        yield {key: out[key].to(model.backbone.device) for key in ("input_ids", "attention_mask")}


def word_tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word."""
    core = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = Whitespace()
    core.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]", **names)
