"""Training with an ordinal task beside one of one label per row: experts, mixture, evaluation and export."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import LABELS, Make
from exports import save_and_load_mixture
from mixtures import TEXTS, tokenize_texts

from experts.errors import Fault
from experts.expert_io import CARD, read_expert_card
from moe.evaluation.evaluate import evaluate_folder
from moe.export.graph import write_graph
from moe.export.inference_spec import build_export_spec
from moe.export.onnx import MixtureGraph
from moe.inference.load import LoadOptions, load
from moe.inference.stream import predict_texts
from moe.model.heads import OrdinalLinear
from moe.runs.model_ref import resolve
from moe.training.expert_steps import train_domain
from moe.training.steps import merge_experts

ORDINAL = {"news": {"kind": "ordinal"}}


@pytest.mark.slow
def test_ordinal_task_is_trained_merged_evaluated_and_predicted(make_work: Make) -> None:
    work = make_work(domains=ORDINAL, stages={"expert": {"steps": 40, "lr": 0.02, "head_lr": 0.05}})
    for domain in ("news", "forum"):
        train_domain(work, domain)
    assert read_expert_card(work.expert_folder("news") / CARD).kinds == {"news": "ordinal"}
    merge_experts(work)
    folder = work.out / "moe-init"
    report = evaluate_folder(work, folder, (), None, None, "soft", pin=False)
    assert report.tasks["news"].quadratic_kappa > 0.1
    assert report.tasks["forum"].quadratic_kappa is None
    predictor = load(resolve(folder), LoadOptions(runtime="torch"))
    (prediction,) = predict_texts(["the profit rises"], predictor, "news")
    assert prediction.labels == LABELS
    assert float(prediction.probabilities.sum()) == pytest.approx(1.0)
    layers = [module for module in predictor.model.heads.modules() if isinstance(module, OrdinalLinear)]
    assert layers
    assert all(bool((layer.weight[1:] == 0).all()) for layer in layers)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the exporter, for its developers
def test_ordinal_head_can_be_exported_to_onnx(tmp_path: Path) -> None:
    head, states, path = OrdinalLinear(6, 4).eval(), torch.randn(3, 6), tmp_path / "head.onnx"
    program = torch.onnx.export(head, (states,), dynamo=True, input_names=["states"], verbose=False)
    assert program is not None
    program.save(path)
    (logits,) = onnxruntime.InferenceSession(str(path)).run(None, {"states": states.numpy()})
    np.testing.assert_allclose(logits, head(states).detach(), atol=1e-5)


def test_ordinal_task_has_no_graph_of_its_own_but_can_be_exported(tmp_path: Path) -> None:
    source = save_and_load_mixture(tmp_path, domains=ORDINAL)
    with pytest.raises(Fault, match="the ordinal task news"):
        write_graph(source.folder)
    module = MixtureGraph(source.model, build_export_spec(source)).eval()
    inputs = tokenize_texts(source.model)
    with torch.no_grad():
        outputs = module(inputs["input_ids"], inputs["attention_mask"], torch.zeros(3, dtype=torch.long))
    predictor = load(resolve(source.folder), LoadOptions(runtime="torch"))
    predictions = predict_texts(TEXTS, predictor, "news")
    expected = np.stack([prediction.probabilities for prediction in predictions])
    np.testing.assert_allclose(outputs["probabilities/news"], expected, atol=1e-5)
