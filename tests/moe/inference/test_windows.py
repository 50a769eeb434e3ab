"""Long texts in windows: a row each in training, a weighted mean in use, alike with and without PyTorch."""

from pathlib import Path

import numpy as np
import pytest
from conftest import Make, save_backbone, tiny_run, tiny_tokenizer
from datasets import Dataset
from mixtures import save_random_mixture

from moe.data.collator import encode_windows, split_into_windows
from moe.data.text_checks import window_overlap
from moe.evaluation.routes import SharedTexts, score_routes, score_texts
from moe.export.graph import write_graph
from moe.inference.graph.onnx_predictor import OnnxPredictor
from moe.inference.graph.session import GraphSession
from moe.inference.load import LoadOptions, load_torch
from moe.inference.stream import predict_texts, to_row
from moe.inference.windows import first_windows, scores_of_windows
from moe.model.backbone import load_backbone
from moe.model.mode import Routing
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain

LONG = "the bank kept sales with orders and margin and profit fell today again of the moon bags " * 6
TEXTS = ["profit rose today", LONG, "the bank fell " * 12]
LENGTH = 24


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mixture that reads at most three windows of 24 tokens, with its graph."""
    folder = tmp_path_factory.mktemp("windows")
    run = tiny_run(save_backbone(folder / "bert"), folder, backbone={"max_length": LENGTH, "windows": 3})
    work = Workspace(run, folder / "run")
    saved = save_random_mixture(folder / "mixture", load_backbone(run.backbone), work, heads="averaged")
    write_graph(saved)
    return saved


@pytest.mark.parametrize("routing", ["soft", "hard"])
def test_windows_give_equal_scores_with_and_without_torch(mixture: Path, routing: Routing) -> None:
    ours = OnnxPredictor(GraphSession(mixture, threads=1), routing)
    theirs = load_torch(resolve(mixture), LoadOptions(sets=("backbone.dtype=float32",), routing=routing))
    scores, expected = ours.score(TEXTS), theirs.score(TEXTS)
    for name, logits in expected.logits.items():
        np.testing.assert_allclose(scores.logits[name], logits, atol=1e-4)
    np.testing.assert_allclose(scores.routing_weights, expected.routing_weights, atol=1e-4)
    assert scores.windows is not None
    assert expected.windows is not None
    assert scores.windows.tolist() == expected.windows.tolist() == [1, 3, 2]
    assert scores.truncated.tolist() == expected.truncated.tolist() == [False, True, False]
    assert ours.spec == theirs.spec


def test_scores_of_a_text_are_the_mean_of_its_windows_weighted_by_their_tokens(mixture: Path) -> None:
    predictor = load_torch(resolve(mixture), LoadOptions(sets=("backbone.dtype=float32",)))
    text, overlap = TEXTS[2], window_overlap(LENGTH, 3)
    ids, _ = encode_windows([text], predictor.tokenizer, "{text}", LENGTH, overflow=True, overlap=overlap)
    assert ids[1][1 : 1 + overlap] == ids[0][-1 - overlap : -1], "windows overlap"
    parts = predictor.score([predictor.tokenizer.decode(row[1:-1]) for row in ids])
    lengths = np.array([len(row) for row in ids])
    name = next(iter(parts.logits))
    expected = (parts.logits[name] * lengths[:, None]).sum(0) / lengths.sum()
    np.testing.assert_allclose(predictor.score([text]).logits[name][0], expected, atol=1e-5)


def test_predictions_state_how_many_windows_were_read(mixture: Path) -> None:
    predictor = load_torch(resolve(mixture), LoadOptions(sets=("backbone.dtype=float32",)))
    short, long, read_whole = (to_row(prediction, predictor.experts) for prediction in predict_texts(TEXTS, predictor))
    assert "windows" not in short
    assert (long["windows"], long["truncated"]) == (3, True)
    assert (read_whole["windows"], read_whole["truncated"]) == (2, False)
    predictor.windows = True
    assert not predict_texts([LONG], predictor)[0].truncated, "--windows reads all of them"


def test_evaluation_of_a_run_reads_windows_too(mixture: Path) -> None:
    predictor = load_torch(resolve(mixture), LoadOptions(sets=("backbone.dtype=float32",)))
    targets, domains = [None] * len(TEXTS), ["news", "forum", "news"]
    shared, expected = SharedTexts(TEXTS, targets), predictor.score(TEXTS)
    soft = score_texts(predictor, shared)
    hard, own = score_routes(predictor, shared, domains, soft)
    for name, logits in expected.logits.items():
        np.testing.assert_allclose(soft.logits[name], logits, atol=1e-6)
        np.testing.assert_allclose(own.logits[name], predictor.score(TEXTS, domains).logits[name], atol=1e-6)
        np.testing.assert_allclose(
            hard.logits[name], predictor.with_options("hard").score(TEXTS).logits[name], atol=1e-6
        )
    np.testing.assert_allclose(score_texts(predictor, shared, np.array([2])).logits[name], logits[2:], atol=1e-5)


def test_a_setting_in_use_overrides_the_number_of_windows(mixture: Path) -> None:
    predictor = load_torch(resolve(mixture), LoadOptions(sets=("backbone.windows=1",)))
    (prediction,) = predict_texts([LONG], predictor)
    assert (prediction.windows, prediction.truncated) == (1, True)


def test_first_windows_are_read_of_every_text() -> None:
    index = np.array([0, 1, 1, 1, 2, 2])
    assert first_windows(index, 2).tolist() == [0, 1, 2, 4, 5]
    assert first_windows(index, None).tolist() == [0, 1, 2, 3, 4, 5]
    outputs = {"head/a": np.array([[1.0], [2.0], [4.0]]), "routing_weights": np.ones((3, 1))}
    scores = scores_of_windows(outputs, np.array([0, 1, 1]), np.array([1, 3]), np.array([9.0, 3.0, 1.0]))
    assert scores.logits["a"].tolist() == [[1.0], [2.5]]
    assert scores.truncated.tolist() == [False, True]


def rows(texts: list[str], targets: list[str | None]) -> Dataset:
    columns = {"id": list(map(str, range(len(texts)))), "text": texts, "label": list(range(len(texts)))}
    return Dataset.from_dict(columns | {"target": targets})


def test_every_window_of_a_training_text_is_a_row_with_its_label() -> None:
    split = split_into_windows(rows(TEXTS, [None] * 3), tiny_tokenizer(), "{text}", LENGTH, 3)
    assert split["label"][:] == [0, 1, 1, 1, 2, 2]
    assert split["text"][0] == TEXTS[0]
    expected, index = encode_windows(TEXTS, tiny_tokenizer(), "{text}", LENGTH, overflow=True, overlap=6)
    read = first_windows(index, 3)
    ids, _ = encode_windows(split["text"][:], tiny_tokenizer(), "{text}", LENGTH)
    assert ids == [expected[i] for i in read], "training reads the windows that predictions read"


@pytest.mark.parametrize("template", ["{text}", "Text: {text} today"])
def test_windows_of_a_training_text_fit_with_target_and_template(template: str) -> None:
    tokenizer = tiny_tokenizer()
    split = split_into_windows(rows([LONG], ["the bank"]), tokenizer, template, LENGTH, 64)
    ids, _ = encode_windows(split["text"][:], tokenizer, template, 1000, split["target"][:])
    assert max(map(len, ids)) <= LENGTH
    assert split["text"][-1].split()[-1] == LONG.split()[-1], "the last window ends where the text ends"


def test_a_model_that_truncates_has_no_windows() -> None:
    assert window_overlap(64, 1) == 0
    data = rows([LONG], [None])
    assert split_into_windows(data, tiny_tokenizer(), "{text}", LENGTH, 1) is data


def test_training_with_windows_caches_and_reads_every_window(
    make_work: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work(backbone={"max_length": 8, "windows": 4}, stages={"cache_trunk": True})
    (folder,) = train_domain(work, "news")
    messages = capsys.readouterr().err
    assert (
        "54 of 54 training texts (100%) are longer than 8 tokens and read in windows, at most 4 each; 0% of" in messages
    )
    predictor = load_torch(resolve(folder))
    assert predictor.spec.windows == 4
    assert not predict_texts(["profit rose today again of the bank sales"], predictor)[0].truncated
