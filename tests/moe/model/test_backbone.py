"""Tests of loading the backbone and its tokenizer, and of the faults if that is not possible."""

from pathlib import Path

import pytest
import torch
from conftest import save_backbone
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from experts.errors import Fault
from moe.model import backbone, device
from moe.model.backbone import (
    BackboneSettings,
    identify_backbone,
    load_backbone,
    load_tokenizer,
    read_backbone_config,
)
from moe.model.backbone_files import SHIPPED_PACKAGE, SHIPPED_SHA256, shipped_folder
from moe.model.device import compute_dtype


def test_default_backbone_has_its_hash_and_its_package_is_not_imported() -> None:
    import sys

    assert identify_backbone(BackboneSettings()).sha256 == SHIPPED_SHA256
    assert SHIPPED_PACKAGE not in sys.modules
    assert (shipped_folder() / "model.safetensors").is_file()


def test_default_backbone_with_a_different_hash_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "SHIPPED_SHA256", "0" * 64)
    with pytest.raises(Fault, match="default backbone with sha256 000000000000"):
        identify_backbone(BackboneSettings())


@pytest.mark.parametrize("name", ["no/such-model", "not a name", "/no/such/folder"])
def test_missing_backbone_is_reported_in_one_line(name: str) -> None:
    with pytest.raises(Fault, match="on the hub or in its cache") as caught:
        load_backbone(BackboneSettings(name=name))
    assert "\n" not in str(caught.value)


def test_multimodal_backbone_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    AutoConfig.for_model("gemma3").save_pretrained(tmp_path)
    for read in (read_backbone_config, load_backbone):
        with pytest.raises(Fault, match=r"a text-only model.*found Gemma3Config"):
            read(BackboneSettings(name=str(tmp_path)))


def test_backbone_without_safetensors_weights_is_refused(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "b")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Fault, match="safetensors"):
        load_backbone(BackboneSettings(name=str(folder)))


def test_backbone_hash_of_several_weight_files_depends_on_each(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "b")
    (folder / "more.safetensors").write_bytes(b"one")
    first = identify_backbone(BackboneSettings(name=str(folder))).sha256
    (folder / "more.safetensors").write_bytes(b"two")
    assert identify_backbone(BackboneSettings(name=str(folder))).sha256 != first


def test_backbone_dropout_is_refused_if_layers_have_none(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "b", "llama")
    with pytest.raises(Fault, match=r"layers with dropout.*none after the trunk in LlamaModel"):
        load_backbone(BackboneSettings(name=str(folder), dropout=0.1))


def test_backbone_dtype_can_be_bfloat16(tmp_path: Path) -> None:
    import torch

    folder = save_backbone(tmp_path / "b")
    assert load_backbone(BackboneSettings(name=str(folder), dtype="bfloat16")).model.dtype == torch.bfloat16


@pytest.mark.parametrize(("amx", "described"), [(False, False), (True, False), (False, True)])
def test_auto_dtype_is_bfloat16_on_a_cpu_that_is_fast_in_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, described: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(device, "is_cpu_fast_in_bfloat16", lambda: described)
    cpu = torch.device("cpu")
    assert compute_dtype("auto", cpu) == (torch.bfloat16 if amx or described else torch.float32)
    assert compute_dtype("float32", cpu) == torch.float32
    assert compute_dtype("bfloat16", cpu) == torch.bfloat16


def backbone_with_tokens(folder: Path, *names: str) -> Path:
    """Return a backbone whose tokenizer has only these special tokens."""
    save_backbone(folder, "llama")
    core = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    special = {f"{name}_token": word for name, word in (("eos", "[SEP]"), ("unk", "[UNK]")) if name in names}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("names", "padding"), [(("eos", "unk"), "[SEP]"), (("unk",), "[UNK]")])
def test_tokenizer_without_padding_token_pads_with_another_token(
    tmp_path: Path, names: tuple[str, ...], padding: str
) -> None:
    tokenizer = load_tokenizer(BackboneSettings(name=str(backbone_with_tokens(tmp_path, *names)), trunk_depth=1))
    assert tokenizer.pad_token == padding
    assert tokenizer(["rates rose", "rates"], padding=True)["attention_mask"][1][-1] == 0


def test_tokenizer_without_any_usable_padding_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="padding, end or unknown token"):
        load_tokenizer(BackboneSettings(name=str(backbone_with_tokens(tmp_path)), trunk_depth=1))
