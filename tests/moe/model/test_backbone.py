"""Claims about the backbone: the shipped one is what it says, others are found or refused in one sentence."""

from pathlib import Path

import pytest
import torch
from conftest import save_backbone
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from experts.errors import Fault
from moe.model import backbone
from moe.model.backbone import (
    BackboneSettings,
    compute_dtype,
    identify_backbone,
    load_backbone,
    load_tokenizer,
    read_backbone_config,
    shipped_folder,
)


def test_the_shipped_backbone_has_its_hash_and_its_code_is_not_imported() -> None:
    import sys

    assert identify_backbone(BackboneSettings()).sha256 == backbone.SHIPPED_SHA256
    assert backbone.SHIPPED_PACKAGE not in sys.modules
    assert (shipped_folder() / "model.safetensors").is_file()


def test_a_shipped_file_with_another_hash_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "SHIPPED_SHA256", "0" * 64)
    with pytest.raises(Fault, match="shipped backbone with sha256 000000000000"):
        identify_backbone(BackboneSettings())


@pytest.mark.parametrize("name", ["no/such-model", "not a name", "/no/such/folder"])
def test_a_backbone_that_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(Fault, match="on the hub or in its cache") as caught:
        load_backbone(BackboneSettings(name=name))
    assert "\n" not in str(caught.value)


def test_a_model_of_pictures_too_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    AutoConfig.for_model("gemma3").save_pretrained(tmp_path)
    for read in (read_backbone_config, load_backbone):
        with pytest.raises(Fault, match=r"model of text alone.*found Gemma3Config"):
            read(BackboneSettings(name=str(tmp_path)))


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "b")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Fault, match="safetensors"):
        load_backbone(BackboneSettings(name=str(folder)))


def test_several_weight_files_have_one_hash_that_tells_each_change(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "b")
    (folder / "more.safetensors").write_bytes(b"one")
    first = identify_backbone(BackboneSettings(name=str(folder))).sha256
    (folder / "more.safetensors").write_bytes(b"two")
    backbone._digest.cache_clear()
    assert identify_backbone(BackboneSettings(name=str(folder))).sha256 != first


def test_dropout_is_refused_where_the_layers_have_none(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "b", "llama")
    with pytest.raises(Fault, match=r"layers with dropout.*none after the trunk in LlamaModel"):
        load_backbone(BackboneSettings(name=str(folder), dropout=0.1))


def test_bfloat16_is_a_setting(tmp_path: Path) -> None:
    import torch

    folder = save_backbone(tmp_path / "b")
    assert load_backbone(BackboneSettings(name=str(folder), dtype="bfloat16")).model.dtype == torch.bfloat16


@pytest.mark.parametrize(("amx", "avx512_bf16"), [(False, False), (True, False), (False, True)])
def test_auto_is_bfloat16_only_on_a_cpu_that_is_fast_in_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512_bf16: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    cpu = torch.device("cpu")
    assert compute_dtype(BackboneSettings(), cpu) == (torch.bfloat16 if amx or avx512_bf16 else torch.float32)
    assert compute_dtype(BackboneSettings(dtype="float32"), cpu) == torch.float32
    assert compute_dtype(BackboneSettings(dtype="bfloat16"), cpu) == torch.bfloat16


def without_tokens(folder: Path, *kept: str) -> Path:
    """A backbone whose tokenizer has no special token but these."""
    save_backbone(folder, "llama")
    core = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    special = {f"{name}_token": word for name, word in (("eos", "[SEP]"), ("unk", "[UNK]")) if name in kept}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kept", "padding"), [(("eos", "unk"), "[SEP]"), (("unk",), "[UNK]")])
def test_a_tokenizer_without_padding_token_pads_with_another(
    tmp_path: Path, kept: tuple[str, ...], padding: str
) -> None:
    tokenizer = load_tokenizer(BackboneSettings(name=str(without_tokens(tmp_path, *kept)), trunk_depth=1))
    assert tokenizer.pad_token == padding
    assert tokenizer(["rates rose", "rates"], padding=True)["attention_mask"][1][-1] == 0


def test_a_tokenizer_that_cannot_pad_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="padding, end or unknown token"):
        load_tokenizer(BackboneSettings(name=str(without_tokens(tmp_path)), trunk_depth=1))
