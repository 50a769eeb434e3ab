"""Tests of `moe export`: folders, reports and error messages."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from corpora import save_language_model
from exports import save_and_load_mixture
from mixtures import random_lm_mixture
from rich.console import Console

from experts.atomic_io import check_manifest
from experts.errors import Fault
from moe.export.export import TARGETS, ExportRequest, export, export_backbone_settings, export_view
from moe.export.onnx import check_graph_support
from moe.export.selection import ExportSource


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a mixture."""
    return save_and_load_mixture(tmp_path_factory.mktemp("run"), shared=True).folder


def render(report: dict[str, Any]) -> str:
    stream = StringIO()
    Console(width=120, file=stream).print(export_view(report))
    return stream.getvalue()


def test_export_writes_adapters_beside_the_model_and_reports_them(model: Path) -> None:
    report = export(ExportRequest(model, "peft", experts=("news",), sets=("backbone.dtype=float32",)))
    assert report.folder == str(model.parent / "export" / "peft")
    check_manifest(model.parent / "export" / "peft", "an export")
    assert "news/adapter_model.safetensors" in report.files
    assert "news: rank 9 in" in render(report), "its own 4 and the shared 5"
    with pytest.raises(Fault, match="--overwrite"):
        export(ExportRequest(model, "peft"))
    merged = export(ExportRequest(model, "peft", merge="linear", weights="news=1,forum=1", overwrite=True))
    assert [adapter.name for adapter in merged.exported.adapters] == ["merged-linear"]
    assert not (model.parent / "export" / "peft" / "news").exists()


def test_export_dense_takes_one_expert_or_a_merge(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="news, forum, shared"):
        export(ExportRequest(model, "dense", tmp_path / "dense"))
    report = export(ExportRequest(model, "dense", tmp_path / "dense", merge="ties", density=0.3))
    assert "merged-ties merged into float32 weights" in render(report)
    assert "model.safetensors" in report.files


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"to": "onx"}, "Did you mean onnx"),
    ({"to": "onnx", "experts": ("news",)}, "--expert only with --to peft, vllm or dense"),
    ({"to": "openvino", "merge": "linear"}, "--merge only with --to peft, vllm or dense"),
    ({"to": "peft", "quantized": True}, "--quantized only with --to dense"),
    ({"to": "dense", "license_id": "mit"}, "--license only with --to hub-folder"),
    ({"to": "hub-folder", "sets": ("backbone.dtype=float32",)}, "--set only with"),
    ({"to": "peft", "weights": "news=1"}, "--merge METHOD"),
    ({"to": "peft", "merge": "cat", "experts": ("news",)}, "either --merge or --expert"),
    ({"to": "peft", "experts": ("nows",)}, "Did you mean news"),
    ({"to": "dense", "experts": ("news",), "quantized": True}, "a backbone without quantization"),
    ({"to": "peft", "sets": ("backbone.typ=1",)}, "unknown key"),
]


@pytest.mark.parametrize(("options", "message"), INVALID)
def test_export_rejects_invalid_options_and_writes_nothing(
    model: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(Fault, match=message):
        export(ExportRequest(model, out=tmp_path / "out", **options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", TARGETS)
def test_export_rejects_a_missing_model_for_every_target(to: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="no such folder"):
        export(ExportRequest(tmp_path / "nowhere", to))


def test_language_model_cannot_be_exported_as_a_graph(tmp_path: Path) -> None:
    model = random_lm_mixture(save_language_model(tmp_path / "model", "llama"))
    with pytest.raises(Fault, match="--to dense or --to peft"):
        check_graph_support(ExportSource(tmp_path, model, "{text}", 64, None))


def test_export_settings_override_those_of_the_model(model: Path) -> None:
    request = ExportRequest(model, "dense", sets=("backbone.dtype=bfloat16",))
    assert export_backbone_settings(request).dtype == "bfloat16"
