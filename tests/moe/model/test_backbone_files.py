"""Tests of a backbone's JSON files: whatever they contain, the only error is a fault."""

import json
import shutil
from pathlib import Path

import pytest

from experts.errors import Fault
from moe.model import backbone_files
from moe.model.backbone import BackboneSettings, load_tokenizer, read_backbone_config
from moe.model.backbone_files import local_weight_files

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", DEEP, "nested more than 100 levels deep"),
        ("config.json", '{"hidden_size": ' + "9" * 5_000 + "}", "a number of 5,000 digits"),
        ("config.json", '{"model_type": "bert", "layer_norm_eps": NaN}', "NaN, which is not a JSON number"),
        ("config.json", '{"model_type": "bert", "model_type": "bert"}', "the key 'model_type' twice"),
        ("config.json", "[]", "tiny"),
        ("config.json", '{"model_type": ["bert"]}', "tiny"),
        ("config.json", '{"model_type": "bert", "num_hidden_layers": {}}', "tiny"),
        ("tokenizer_config.json", DEEP, "nested more than 100 levels deep"),
        ("tokenizer_config.json", '{"pad_token": NaN}', "NaN"),
        ("tokenizer.json", DEEP, "tiny"),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": NaN}}', "tiny"),
        ("tokenizer.json", "{}", "tiny"),
        ("model.safetensors.index.json", DEEP, "nested more than 100 levels deep"),
    ],
    ids=lambda value: value[:40],
)
def test_bad_json_of_a_backbone_is_one_sentence(
    tiny_folder: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_folder, folder)
    (folder / name).write_text(content)
    settings = BackboneSettings(name=str(folder))

    def read() -> None:
        read_backbone_config(settings)
        load_tokenizer(settings)

    with pytest.raises(Fault, match=message) as caught:
        read()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("content", [DEEP, "{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": [1]}}', "NaN"])
def test_bad_index_in_the_cache_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    index = tmp_path / backbone_files.INDEX
    index.write_text(content)

    def cached(name: str, file: str, revision: str | None = None) -> str | None:
        return str(index) if file == backbone_files.INDEX else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    with pytest.raises(Fault, match="index"):
        local_weight_files("owner/name", None)


def test_index_in_the_cache_names_the_weight_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / backbone_files.INDEX
    index.write_text(json.dumps({"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}))

    def cached(name: str, file: str, revision: str | None = None) -> str | None:
        return None if file == backbone_files.WEIGHTS else str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert [path.name for path in local_weight_files("owner/name", None)] == ["1.safetensors", "2.safetensors"]
