"""Claims about `moe export` as it is typed: where it writes, what it shows, and what it refuses in one sentence."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from corpora import save_language_model
from exports import opened
from mixtures import random_lm_mixture
from rich.console import Console

from experts.atomic_io import check_manifest
from experts.errors import Fault
from moe.export.export import TARGETS, ExportRequest, export_backbone_settings, export, export_view
from moe.export.onnx import check_graph_support
from moe.export.selection import ExportSource


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture's folder."""
    return opened(tmp_path_factory.mktemp("run"), shared=True).folder


def said(content: dict[str, Any]) -> str:
    console = Console(width=120, file=StringIO())
    console.print(export_view(content))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_adapters_lie_beside_the_model_and_are_told(model: Path) -> None:
    content = export(ExportRequest(model, "peft", experts=("news",), sets=("backbone.dtype=float32",)))
    assert content["folder"] == str(model.parent / "export" / "peft")
    check_manifest(model.parent / "export" / "peft", "an export")
    assert "news/adapter_model.safetensors" in content["files"]
    assert "news: rank 9 in" in said(content), "its own 4 and the shared 5"
    with pytest.raises(Fault, match="--overwrite"):
        export(ExportRequest(model, "peft"))
    again = export(ExportRequest(model, "peft", merge="linear", weights="news=1,forum=1", overwrite=True))
    assert [one["name"] for one in again["adapters"]] == ["merged-linear"]
    assert not (model.parent / "export" / "peft" / "news").exists()


def test_one_expert_or_a_merge_is_folded(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="news, forum, shared"):
        export(ExportRequest(model, "dense", tmp_path / "dense"))
    content = export(ExportRequest(model, "dense", tmp_path / "dense", merge="ties", density=0.3))
    assert "merged-ties folded into float32 weights" in said(content)
    assert "model.safetensors" in content["files"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"to": "onx"}, "Did you mean onnx"),
    ({"to": "onnx", "experts": ("news",)}, "--expert for --to peft or dense"),
    ({"to": "openvino", "merge": "linear"}, "--merge for --to peft or dense"),
    ({"to": "peft", "quantized": True}, "--quantized for --to dense"),
    ({"to": "dense", "licence": "mit"}, "--license for --to hub-folder"),
    ({"to": "hub-folder", "sets": ("backbone.dtype=float32",)}, "--set for"),
    ({"to": "peft", "weights": "news=1"}, "--merge METHOD"),
    ({"to": "peft", "merge": "cat", "experts": ("news",)}, "--merge or --expert"),
    ({"to": "peft", "experts": ("nows",)}, "Did you mean news"),
    ({"to": "dense", "experts": ("news",), "quantized": True}, "whole weights"),
    ({"to": "peft", "sets": ("backbone.typ=1",)}, "unknown key"),
]


@pytest.mark.parametrize(("how", "why"), BAD)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(
    model: Path, tmp_path: Path, how: dict[str, Any], why: str
) -> None:
    with pytest.raises(Fault, match=why):
        export(ExportRequest(model, out=tmp_path / "out", **how))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", TARGETS)
def test_a_folder_that_is_none_is_refused_by_every_target(to: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="no such folder"):
        export(ExportRequest(tmp_path / "nowhere", to))


def test_a_language_model_becomes_no_graph(tmp_path: Path) -> None:
    model = random_lm_mixture(save_language_model(tmp_path / "model", "llama"))
    with pytest.raises(Fault, match="--to dense or --to peft"):
        check_graph_support(ExportSource(tmp_path, model, "{text}", 64, None))


def test_settings_are_laid_over_the_model_s_own(model: Path) -> None:
    assert export_backbone_settings(ExportRequest(model, "dense", sets=("backbone.dtype=bfloat16",))).dtype == "bfloat16"
