"""Tests of the choice between onnxruntime and PyTorch: equal answers, no import of torch, never a stale graph."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from conftest import made_up_rows, save_backbone, tiny_run, write_csv
from mixtures import save_random_mixture

from experts.atomic_io import read_json, write_json, write_manifest
from experts.errors import Fault
from moe.api.model import MixtureClassifier
from moe.data.collator import encode_windows, long_targets
from moe.export.graph import write_graph, write_graph_if_possible
from moe.inference import load as load_module
from moe.inference.graph.onnx_predictor import OnnxPredictor, TextEncoder
from moe.inference.graph.spec import GRAPH_FOLDER, SPEC_FILE, TOKENIZER_FILE
from moe.inference.load import RUNTIMES, LoadOptions, Runtime, has_gpu, load
from moe.inference.multiprocess import predict_in_processes
from moe.inference.stream import predict_rows, predict_texts
from moe.inference.torch_predictor import TorchPredictor
from moe.integrity import verify
from moe.model.backbone import BackboneSettings, load_backbone, load_tokenizer
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace
from moe.synthetic import generate

ROOT = Path(__file__).parents[3]
BLOCKED = ("torch", "transformers", "peft", "datasets", "pyarrow", "sklearn", "scipy", "onnx", "accelerate")
WITHOUT_TORCH = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
from moe.commands.main import main
main()
"""


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture on a tiny backbone, with its graph."""
    folder = tmp_path_factory.mktemp("runtime")
    work = Workspace(tiny_run(save_backbone(folder / "backbone"), folder), folder / "run")
    saved = save_random_mixture(folder / "mixture", load_backbone(work.run.backbone), work, shared=True)
    write_graph(saved)
    return saved


@pytest.fixture
def copy(mixture: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    target = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(mixture), str(target)], check=True)
    return target


def assert_equal_answers(folder: Path, texts: Sequence[str], **options: Any) -> None:
    """Check that both runtimes give the same labels, and probabilities within 1e-4."""
    fp32 = ("backbone.dtype=float32",)
    both = LoadOptions(runtime="onnx", **options), LoadOptions(sets=fp32, **options)
    ours, theirs = (predict_texts(texts, load(resolve(folder), chosen)) for chosen in both)
    assert [(row.task, row.label) for row in ours] == [(row.task, row.label) for row in theirs]
    for one_runtime, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one_runtime.probabilities, other.probabilities, atol=1e-4)
        np.testing.assert_allclose(one_runtime.routing_weights, other.routing_weights, atol=1e-4)


@pytest.mark.parametrize("routing", ["soft", "hard"])
def test_runtimes_give_equal_answers_to_500_texts(mixture: Path, routing: str) -> None:
    texts = [row["text"] for domain in ("news", "forum", "macro") for row in made_up_rows(domain, 168)][:500]
    assert_equal_answers(mixture, texts, routing=routing)


@pytest.mark.slow
def test_runtimes_give_equal_answers_to_500_texts_with_the_shipped_backbone(tmp_path: Path) -> None:
    work = Workspace(tiny_run(Path("default"), tmp_path, backbone={"max_length": 64}), tmp_path / "run")
    folder = save_random_mixture(tmp_path / "mixture", load_backbone(work.run.backbone), work, heads="averaged")
    write_graph(folder)
    texts = [str(row["text"]) for domain in ("news", "forum") for row in generate(domain, 250, seed=3)]
    assert_equal_answers(folder, texts)
    assert_equal_answers(folder, texts, routing="hard")


TEXTS = (
    "Profit rose 20% in the third quarter.",
    "",
    " \t ",
    "利润上升，亏损收窄。Ünïcödé e\u0301 🚀🚀 to the moon",
    "\x00\x07 control\u200bcharacters \ud800 surrogate",
    "[CLS] [SEP] [PAD] [MASK] ##ing",
    "antidisestablishmentarianism" * 20,
    "sales fell and margins shrank " * 80,
)


@pytest.mark.parametrize("max_length", [8, 64])
def test_tokenizer_of_a_graph_encodes_as_transformers(tmp_path: Path, max_length: int) -> None:
    tokenizer = load_tokenizer(BackboneSettings())
    (tmp_path / TOKENIZER_FILE).write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    encoder = TextEncoder(tmp_path / TOKENIZER_FILE, "news: {text}", max_length)
    ids, index = encoder.encode(TEXTS)
    filled = ["news: " + text.replace("\ud800", "\ufffd") for text in TEXTS]
    expected = tokenizer(filled, truncation=True, max_length=max_length, return_overflowing_tokens=True)
    assert ids == expected["input_ids"]
    assert index.tolist() == list(expected["overflow_to_sample_mapping"])


@pytest.mark.parametrize("max_length", [12, 64])
def test_tokenizer_of_a_graph_encodes_targets_as_transformers(tmp_path: Path, max_length: int) -> None:
    tokenizer = load_tokenizer(BackboneSettings())
    (tmp_path / TOKENIZER_FILE).write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    encoder = TextEncoder(tmp_path / TOKENIZER_FILE, "{text}", max_length)
    targets = ["Apple", None, "", "Ünïcödé e\u0301", "a \ud800", "[SEP]", "long company name " * 20, "Microsoft"]
    ids, index = encoder.encode(TEXTS, targets)
    expected, expected_index = encode_windows(TEXTS, tokenizer, "{text}", max_length, targets, overflow=True)
    assert ids == expected
    assert index.tolist() == expected_index.tolist()
    assert encoder.long_targets(targets).tolist() == long_targets(targets, tokenizer, max_length).tolist()


@pytest.mark.slow
def test_the_torch_path_imports_neither_datasets_nor_pandas_nor_peft() -> None:
    code = (
        "import sys, moe.inference.load_mixture, moe.inference.torch_predictor;"
        "print('torch' in sys.modules, sorted({'datasets', 'pandas', 'peft', 'sklearn'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "[]"]


def run_without_torch(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run `moe words…` in a process in which torch cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_moe_infer_answers_arguments_files_and_pipes_without_torch(mixture: Path, tmp_path: Path) -> None:
    texts = ["profit rose today", "moon bags fell again"]
    expected = [row["label"] for row in predict_rows([{"text": text} for text in texts], load(resolve(mixture)))]
    write_csv(tmp_path / "texts.csv", [{"id": str(i), "text": text} for i, text in enumerate(texts)])
    calls = (
        run_without_torch("infer", "--model", str(mixture), *texts),
        run_without_torch("infer", "--model", str(mixture), stdin="\n".join(texts)),
        run_without_torch("infer", "--model", str(mixture), "--file", str(tmp_path / "texts.csv"), "--routing", "soft"),
    )
    for done in calls:
        assert done.returncode == 0, done.stderr
        assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == expected


def test_runtime_auto_uses_a_current_graph_unless_the_options_need_torch(
    mixture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "is_cpu_fast_in_bfloat16", lambda: False)
    assert isinstance(load(resolve(mixture), LoadOptions(large=True)), OnnxPredictor)
    assert isinstance(load(resolve(mixture)), OnnxPredictor)
    assert isinstance(MixtureClassifier.load(mixture).predictor, OnnxPredictor)
    assert isinstance(MixtureClassifier.load(mixture, runtime="torch").predictor, TorchPredictor)
    assert isinstance(load(resolve(mixture), LoadOptions(sets=("backbone.max_length=8",))), TorchPredictor)
    monkeypatch.setattr(load_module, "is_cpu_fast_in_bfloat16", lambda: True)
    assert isinstance(load(resolve(mixture), LoadOptions(large=True)), TorchPredictor)
    assert isinstance(load(resolve(mixture)), OnnxPredictor)
    monkeypatch.setattr(load_module, "has_gpu", lambda: True)
    assert isinstance(load(resolve(mixture)), TorchPredictor)


def test_runtime_auto_predicts_with_torch_and_says_why_if_the_graph_is_stale(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = copy / GRAPH_FOLDER / SPEC_FILE
    write_json(spec, read_json(spec) | {"manifest_sha256": "0" * 64})
    expected = predict_texts(["profit rose"], load(resolve(copy), LoadOptions(runtime="torch")))
    assert not capsys.readouterr().err
    (row,) = predict_texts(["profit rose"], load(resolve(copy)))
    assert row.probabilities.tolist() == expected[0].probabilities.tolist()
    assert "PyTorch predicts instead" in " ".join(capsys.readouterr().err.split())
    (report,) = verify(copy).folders
    assert not report.faults
    assert any("PyTorch predicts" in remark for remark in report.remarks)


def test_runtime_onnx_is_refused_without_a_usable_graph_or_with_overrides(copy: Path, mixture: Path) -> None:
    unknown_runtime: dict[str, Any] = {"runtime": "fast"}
    with pytest.raises(Fault, match="no --set for a graph"):
        load(resolve(mixture), LoadOptions(sets=("backbone.dtype=float32",), runtime="onnx"))
    with pytest.raises(Fault, match="--runtime auto, onnx, int8 or torch"):
        LoadOptions(**unknown_runtime).check()
    subprocess.run(["rm", "-r", str(copy / GRAPH_FOLDER)], check=True)
    with pytest.raises(Fault, match="moe export FOLDER --to graph"):
        load(resolve(copy), LoadOptions(runtime="onnx"))
    assert isinstance(load(resolve(copy)), TorchPredictor)


def test_damaged_model_is_refused_with_and_without_its_graph(copy: Path) -> None:
    heads = copy / "heads.safetensors"
    heads.write_bytes(heads.read_bytes()[:-1] + b"\x01")
    for runtime in (name for name in RUNTIMES if name != "int8"):  # it has no INT8 graph
        with pytest.raises(Fault, match=r"heads\.safetensors with sha256"):
            load(resolve(copy), LoadOptions(runtime=runtime))


def test_graph_of_an_intact_model_leaves_nothing_to_report(mixture: Path) -> None:
    (report,) = verify(mixture).folders
    assert (report.faults, report.remarks) == ([], [])


def test_graph_is_refused_for_quantized_backbones_and_unknown_families(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Workspace(tiny_run(save_backbone(tmp_path / "backbone", "gpt2"), tmp_path), tmp_path / "run")
    folder = save_random_mixture(tmp_path / "mixture", load_backbone(work.run.backbone), work)
    assert not write_graph_if_possible(folder)
    assert "the family gpt2" in " ".join(capsys.readouterr().err.split())
    assert not (folder / GRAPH_FOLDER).exists()
    card = folder / "mixture.json"
    write_json(card, read_json(card) | {"backbone_settings": BackboneSettings(quantization="nf4").model_dump()})
    write_manifest(folder)
    with pytest.raises(Fault, match="found nf4"):
        write_graph(folder)


def test_gpu_that_is_hidden_or_that_torch_does_not_support_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe.inference.load._gpu_devices", lambda: [Path("/dev/nvidia0")])
    monkeypatch.setattr("moe.inference.load.version", lambda _: "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not has_gpu()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("moe.inference.load.version", lambda _: "2.13.0+cpu")
    assert not has_gpu()


@pytest.mark.slow
def test_two_processes_predict_with_the_graph_as_one(mixture: Path) -> None:
    rows = [{"text": row["text"]} for row in made_up_rows("news", 30)]
    options = LoadOptions(batch_tokens=8, runtime="onnx")
    predicted = predict_in_processes(iter(rows), resolve(mixture), options, None, None, workers=2)
    for row, expected in zip(predicted, predict_rows(rows, load(resolve(mixture), options)), strict=True):
        assert row["label"] == expected["label"]


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_load_reads_the_card_once_and_hashes_each_file_at_most_once(
    copy: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, hashed = Counter[str](), Counter[str]()
    path_open, file_digest = Path.open, hashlib.file_digest

    def count_open(path: Path, *args: Any, **options: Any) -> object:
        opened[str(path.relative_to(copy)) if path.is_relative_to(copy) else ""] += 1
        return path_open(path, *args, **options)

    def count_hash(stream: BinaryIO, *args: Any) -> object:
        hashed[stream.name] += 1
        return file_digest(stream, *args)

    monkeypatch.setattr(Path, "open", count_open)
    monkeypatch.setattr(hashlib, "file_digest", count_hash)
    ref = resolve(copy)
    load(ref, LoadOptions(runtime=runtime))
    assert opened["mixture.json"] == opened["manifest.json"] == 1
    assert any(name.endswith("heads.safetensors") for name in hashed)
    assert set(hashed.values()) == {1}
    assert not ref.records, "another load must read the files again"


def test_load_checks_the_files_again_when_it_is_called_again(copy: Path) -> None:
    ref = resolve(copy)
    load(ref)
    heads = copy / "heads.safetensors"
    heads.write_bytes(heads.read_bytes()[:-1] + b"\x01")
    with pytest.raises(Fault, match=r"heads\.safetensors with sha256"):
        load(ref)


@pytest.mark.parametrize("override", ["seed=3", "backbone=default", "backbone.pooling=last", "backbone.trunk_depth=2"])
def test_overrides_that_do_not_apply_to_a_trained_model_are_refused(mixture: Path, override: str) -> None:
    with pytest.raises(Fault, match=r"--set .*Remove this --set"):
        load(resolve(mixture), LoadOptions(sets=(override,)))
    LoadOptions(sets=("backbone.dtype=float32", "backbone.name=elsewhere", "backbone.max_length=64")).check()
