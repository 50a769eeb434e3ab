"""Tests of predictions with a graph: equal to PyTorch's in fp32 for every model, and never from a stale graph."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Make, save_backbone, tiny_run
from mixtures import save_random_mixture
from onnx import numpy_helper

from experts.atomic_io import read_json, sha256_of, write_json, write_manifest
from experts.errors import Fault
from moe.export.graph import write_graph
from moe.inference import batches
from moe.inference.graph.onnx_predictor import OnnxPredictor
from moe.inference.graph.session import GraphSession
from moe.inference.graph.spec import GRAPH_FILE, GRAPH_FOLDER, SPEC_FILE
from moe.inference.load import LoadOptions, load, load_torch
from moe.inference.windows import Scores
from moe.model.backbone import load_backbone
from moe.model.heads import HeadSettings
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from router.gate_settings import GateSettings

TEXTS = ["profit rose today", "moon bags fell again", "sales", "the bank kept sales with orders and margin " * 5, "?"]


def save_mixture(folder: Path, family: str = "bert", trunk_depth: int = 1, pooling: str = "mean", **kinds: Any) -> Path:
    """Write a random mixture on a tiny backbone, with its graph, and return its folder."""
    if not (folder / "backbone").is_dir():
        save_backbone(folder / "backbone", family)
    run = tiny_run(folder / "backbone", folder, backbone={"trunk_depth": trunk_depth, "pooling": pooling})
    work = Workspace(run, folder / "run")
    options = {"heads": "averaged"} | kinds
    saved = save_random_mixture(folder / "mixture", load_backbone(work.run.backbone), work, **options)
    assert write_graph(saved).difference < 1e-4
    return saved


def assert_equal_scores(
    folder: Path, pin: list[str | None] | None = None, targets: list[str | None] | None = None, **options: Any
) -> Scores:
    """Check that both runtimes give the same scores, and return them."""
    ours = OnnxPredictor(GraphSession(folder, threads=1), states=True, **options)
    theirs = load_torch(resolve(folder), LoadOptions(sets=("backbone.dtype=float32",), **options))
    scores, expected = ours.score(TEXTS, pin, targets), theirs.score(TEXTS, pin, targets)
    for name, logits in expected.logits.items():
        np.testing.assert_allclose(scores.logits[name], logits, atol=1e-4)
    np.testing.assert_allclose(scores.routing_weights, expected.routing_weights, atol=1e-4)
    np.testing.assert_array_equal(scores.truncated, expected.truncated)
    np.testing.assert_array_equal(scores.unfamiliar, expected.unfamiliar)
    if expected.polarity is not None:
        assert scores.polarity is not None
        np.testing.assert_allclose(scores.polarity, expected.polarity, atol=1e-4)
    assert ours.spec == theirs.spec
    return scores


@pytest.mark.parametrize(
    ("kinds", "trunk_depth"),
    [
        ({}, 1),
        ({"shared": True, "experts": 2}, 0),
        ({"heads": "per_expert", "experts": 2}, 1),
        ({"gate": "hard", "experts": 2}, 1),
        ({"gate": "team", "experts": 2, "shared": True, "heads": "per_expert"}, 1),
        ({"gate": "fixed", "pooling": "last"}, 0),
        ({"gate": GateSettings(hidden=0, queries=2, top_k=1), "heads": HeadSettings(kind="mlp"), "experts": 2}, 1),
        ({"gate": GateSettings(init="centroid"), "heads": "per_expert", "experts": 2, "shared": True}, 1),
        ({"gate": GateSettings(kind="team", init="centroid", queries=0), "experts": 2}, 1),
        ({"gate": GateSettings(kind="hard", init="arrow"), "experts": 2, "shared": True}, 0),
        ({"gate": GateSettings(init="phatgoose", hidden=0)}, 1),
        ({"gate": GateSettings(temperature=0.1), "heads": HeadSettings(polarity_bound="clip", bias=False)}, 1),
    ],
)
def test_onnx_scores_equal_those_of_torch_in_every_kind_of_mixture(
    tmp_path: Path, kinds: dict[str, Any], trunk_depth: int
) -> None:
    folder = save_mixture(tmp_path, trunk_depth=trunk_depth, **kinds)
    pins = ["news", None, "forum", "news", "no such domain"]
    soft = assert_equal_scores(folder)
    pinned = assert_equal_scores(folder, pins)
    assert_equal_scores(folder, routing="hard")
    assert_equal_scores(folder, pins, routing="hard", windows=True)
    assert soft.truncated.tolist() == [False, False, False, True, False]
    assert not all(np.allclose(pinned.logits[name], soft.logits[name], atol=1e-3) for name in soft.logits)


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert"])
def test_onnx_scores_equal_those_of_torch_in_other_families(tmp_path: Path, family: str) -> None:
    assert_equal_scores(save_mixture(tmp_path, family, shared=True), ["forum"] * len(TEXTS))


def test_onnx_scores_of_texts_with_targets_equal_those_of_torch(tmp_path: Path) -> None:
    folder = save_mixture(tmp_path, shared=True)
    targets = ["profit", None, "sales " * 20, "bank", ""]
    scores = assert_equal_scores(folder, targets=targets, windows=True)
    assert_equal_scores(folder, ["news"] * len(TEXTS), targets, routing="hard")
    assert scores.target_truncated is not None
    assert scores.target_truncated.tolist() == [False, False, True, False, False]


def test_onnx_scores_of_single_experts_equal_those_of_torch(make_work: Make) -> None:
    work = make_work(shared={"r": 2})
    train_shared(work)
    for folder in (*train_domain(work, "news"), work.expert_folder("shared")):
        write_graph(folder)
        assert GraphSession(folder).parts is None
        scores = assert_equal_scores(folder, ["forum"] * len(TEXTS), windows=True)
        assert scores.routing_weights.shape == (len(TEXTS), folder.name == "news")
    (work.expert_folder("shared") / "adapter_model.safetensors").write_bytes(b"changed")
    with pytest.raises(Fault, match="adapter_model"):
        GraphSession(work.expert_folder("news"))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture with its graph."""
    return save_mixture(tmp_path_factory.mktemp("graph"), shared=True)


def test_graph_computes_only_the_experts_that_a_batch_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_mixture(tmp_path, gate=GateSettings(prune=0.3, init="centroid"), experts=2, shared=True)
    session = GraphSession(folder, threads=1)
    complete, soft = OnnxPredictor(session), OnnxPredictor(session, batch_tokens=16)
    for routing in ("pruned", "hard"):
        assert_equal_scores(folder, routing=routing, batch_tokens=16)
        ours = OnnxPredictor(session, routing, batch_tokens=16)
        changed = ours.score(TEXTS).logits
        assert ours.routing_count.skipped_share > 0
        with monkeypatch.context() as patch:
            patch.setattr(batches, "HELD_BATCHES", 1)
            apart = ours.score(TEXTS).logits
        assert all(np.allclose(changed[name], apart[name], atol=1e-4) for name in changed)
        alone = OnnxPredictor(session, routing).score(TEXTS).logits  # the complete graph
        assert all(np.allclose(changed[name], alone[name], atol=1e-4) for name in changed)
        assert not all(np.allclose(changed[name], complete.score(TEXTS).logits[name], atol=1e-3) for name in changed)
    soft.score(TEXTS)
    assert soft.routing_count.skipped_share == 0


def test_graph_folds_the_expert_of_pinned_texts_within_its_memory(mixture: Path) -> None:
    session = GraphSession(mixture, threads=1)
    assert session.parts is not None
    size = session.parts._fold_size
    session.parts.parts = session.parts.parts.model_copy(update={"fold_memory": size})
    theirs = load_torch(resolve(mixture), LoadOptions(sets=("backbone.dtype=float32",)))
    ours = OnnxPredictor(session)
    tokens = np.sum(ours.score(TEXTS, ["news"] * len(TEXTS)).tokens)
    assert not session.parts.is_folded("news")
    ours.fold_tokens = 2 * int(tokens)
    for domain in ("news", "forum", "news"):
        for _ in range(2):
            scores, expected = (each.score(TEXTS, [domain] * len(TEXTS)) for each in (ours, theirs))
        assert [name for name in ("news", "forum") if session.parts.is_folded(name)] == [domain]
        for name, logits in expected.logits.items():
            np.testing.assert_allclose(scores.logits[name], logits, atol=1e-4)
    session.parts.parts = session.parts.parts.model_copy(update={"fold_memory": size - 1})
    del session.parts.can_fold
    assert not session.parts.can_fold


def test_graph_of_format_1_still_predicts_and_prunes_nothing(tmp_path: Path) -> None:
    folder = save_mixture(tmp_path, gate=GateSettings(prune=0.3))
    soft = OnnxPredictor(GraphSession(folder, threads=1)).score(TEXTS)
    graph = folder / GRAPH_FOLDER
    model = onnx.load(str(graph / GRAPH_FILE), load_external_data=False)
    inputs = [value for value in model.graph.input if value.name != "prune"]  # which format 1 did not have
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.0, dtype=np.float32), "prune"))
    (graph / GRAPH_FILE).write_bytes(model.SerializeToString())
    spec = read_json(graph / SPEC_FILE)
    added = ("parts", "prune")
    old = {key: value for key, value in spec.items() if key not in added} | {"format": 1}
    old |= {"inputs": spec["inputs"][:-1], "graph_sha256": sha256_of(graph / GRAPH_FILE)}
    write_json(graph / SPEC_FILE, old)
    write_manifest(graph)
    with pytest.raises(Fault, match=r"a graph of format 1.*moe export"):
        load(resolve(folder), LoadOptions(runtime="onnx", routing="pruned"))
    predictor = OnnxPredictor(GraphSession(folder, threads=1), "pruned", batch_tokens=16)
    assert predictor.routing == "soft"
    for name, logits in predictor.score(TEXTS).logits.items():
        np.testing.assert_allclose(logits, soft.logits[name], atol=1e-5)


def test_graph_holds_no_weights_of_the_backbone_or_the_experts(mixture: Path) -> None:
    weights = sum(path.stat().st_size for path in mixture.parent.rglob("*.safetensors"))
    assert (mixture / GRAPH_FOLDER / GRAPH_FILE).stat().st_size < weights / 2
    spec = read_json(mixture / GRAPH_FOLDER / SPEC_FILE)
    names = spec["weights"] | spec["parts"]["weights"]
    assert {part["file"] for weight in names.values() for part in weight["parts"]} == {
        "backbone",
        "heads.safetensors",
        "router.safetensors",
        *(f"experts/{name}/adapter_model.safetensors" for name in ("news", "forum", "shared")),
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("mixture/graph/model.onnx", "The file was changed or cut"),
        ("mixture/graph/tokenizer.json", "The file was changed or cut"),
        ("mixture/graph/folded.onnx", "The file was changed or cut"),
        ("mixture/router.safetensors", "router.safetensors with sha256"),
        ("mixture/manifest.json", "manifest"),
        ("backbone/model.safetensors", "the backbone"),
    ],
)
def test_graph_whose_files_were_changed_is_refused(tmp_path: Path, changed: str, message: str) -> None:
    folder = save_mixture(tmp_path)
    content = bytearray((tmp_path / changed).read_bytes())
    content[-3] ^= 1
    (tmp_path / changed).write_bytes(bytes(content))
    with pytest.raises(Fault, match=message):
        GraphSession(folder)


def test_graph_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = save_mixture(tmp_path)
    spec = folder / GRAPH_FOLDER / SPEC_FILE
    write_json(spec, read_json(spec) | {"format": 99})
    with pytest.raises(Fault, match="format 99"):
        GraphSession(folder)
