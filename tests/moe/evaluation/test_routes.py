"""Claims about texts scored by several models and routes: the outputs are those of a predictor of each route alone."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import Make
from mixtures import random_mixture

from moe.evaluation import routes
from moe.evaluation.routes import SharedTexts, score_routes, score_texts
from moe.inference.torch_predictor import TorchPredictor
from moe.inference.windows import Scores
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace


def shared_texts(rows: list[dict[str, Any]]) -> SharedTexts:
    return SharedTexts([row["text"] for row in rows], [row["target"] for row in rows])


def assert_same(scores: Scores, expected: Scores, weights: bool = True) -> None:
    for head, logits in expected.logits.items():
        np.testing.assert_allclose(scores.logits[head], logits, atol=2e-5)
    np.testing.assert_allclose(scores.polarity, expected.polarity, atol=2e-5)
    np.testing.assert_array_equal(scores.truncated, expected.truncated)
    if weights:
        np.testing.assert_allclose(scores.routing_weights, expected.routing_weights, atol=2e-5)


def mixture_and_rows(make_work: Make, **over: Any) -> tuple[Workspace, TorchPredictor, list[dict[str, Any]]]:
    """A random mixture that truncates some texts, and the test rows."""
    work = make_work(backbone={"trunk_depth": over.pop("trunk_depth", 1)})
    model = random_mixture(load_backbone(work.run.backbone), work, **over)
    return work, TorchPredictor(model, "{text}", 9), work.rows("test").to_list()


@pytest.mark.parametrize("over", [{}, {"trunk_depth": 0}, {"experts": 2}, {"shared": True, "heads": "averaged"}])
def test_every_route_scores_as_a_predictor_of_this_route(make_work: Make, over: dict[str, Any]) -> None:
    _, predictor, rows = mixture_and_rows(make_work, **over)
    texts, domains = shared_texts(rows), [row["domain"] for row in rows]
    plain, targets = [row["text"] for row in rows], [row["target"] for row in rows]
    soft = score_texts(predictor, texts)
    assert_same(soft, predictor.score(plain, None, targets))
    hard, own = score_routes(predictor, texts, domains, soft)
    assert_same(hard, predictor.with_options("hard").score(plain, None, targets), weights=False)
    assert_same(own, predictor.score(plain, domains, targets), weights=False)


def test_rows_are_scored_in_the_order_in_which_they_are_given(make_work: Make) -> None:
    _, predictor, rows = mixture_and_rows(make_work)
    texts = shared_texts(rows)
    index = np.array([7, 0, 11, 3])
    everything, some = score_texts(predictor, texts), score_texts(predictor, texts, index)
    for head, logits in everything.logits.items():
        np.testing.assert_allclose(some.logits[head], logits[index], atol=2e-5)


@pytest.mark.parametrize("limit", [2**30, 0])
def test_models_with_the_same_trunk_run_it_once_if_its_states_fit(
    make_work: Make, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    work, first, rows = mixture_and_rows(make_work)
    second = TorchPredictor(random_mixture(load_backbone(work.run.backbone), work, shared=True), "{text}", 9)
    expected = second.score([row["text"] for row in rows])
    monkeypatch.setattr(routes, "TRUNK_BYTES", limit)
    runs = [count_layer_runs(predictor) for predictor in (first, second)]
    texts = shared_texts(rows)
    score_texts(first, texts)
    assert_same(score_texts(second, texts), expected)
    assert runs[0] == [len(rows)]
    assert runs[1] == ([0] if limit else [len(rows)])


def count_layer_runs(predictor: TorchPredictor) -> list[int]:
    """Count the texts that run through the first layer; a list of one number, which grows."""
    runs = [0]
    layer = predictor.model.trunk.layers[0].attention

    def count(module: torch.nn.Module, args: Any, output: Any) -> None:
        runs[0] += len(output[0] if isinstance(output, tuple) else output)

    layer.register_forward_hook(count)
    return runs


def test_expert_that_both_routes_choose_runs_once(make_work: Make) -> None:
    _, predictor, rows = mixture_and_rows(make_work)
    texts, runs = shared_texts(rows), []
    soft = score_texts(predictor, texts)
    domains = [("news", "forum")[expert] for expert in soft.routing_weights.argmax(1)]
    score_routes(predictor, texts, domains, soft, runs.append)
    assert sum(runs) == len(rows)
