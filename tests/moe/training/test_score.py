"""Training with a task that has a score alone: its loss, an expert, mixtures with and without other tasks."""

import pytest
from conftest import SCORE_ALONE, Make
from mixtures import build_batch, build_objective, random_mixture

from experts.errors import Fault
from experts.expert_io import CARD, read_expert_card
from moe.checkpoints.mixture import read_card
from moe.config.stages import EXPERT
from moe.data.collator import model_inputs
from moe.evaluation.calibration.calibrate import calibrate
from moe.evaluation.evaluate import evaluate_folder
from moe.evaluation.run_results import evaluate_run
from moe.inference.load import LoadOptions, load
from moe.inference.stream import predict_rows
from moe.model.backbone import load_backbone
from moe.report.conclusions import OWN_EXPERT
from moe.report.html import write_report
from moe.runs.best import best_model
from moe.runs.model_ref import resolve
from moe.runs.selection_metric import selection_value
from moe.training.expert_steps import train_domain
from moe.training.steps import merge_experts, train_router

FEW = {"steps": 120, "lr": 0.02, "head_lr": 0.05}


def test_score_alone_trains_the_polarity_head_and_no_class_head(make_work: Make) -> None:
    work = make_work(domains=SCORE_ALONE)
    model = random_mixture(load_backbone(work.run.backbone), work)
    assert list(model.labels.heads.values()) == [("negative", "neutral", "positive")]
    assert model.labels.score_tasks == ("forum",)
    batch = build_batch(model, work)
    assert batch["label"].tolist()[3:] == [-1] * 3
    scored = {name: tensor[3:] for name, tensor in batch.items()}
    objective = build_objective(model, EXPERT)
    objective.start_step()
    output = model.train()(**model_inputs(scored))
    loss = objective(output, scored)
    assert output.polarity is not None
    assert objective.logs["polarity"] == pytest.approx(
        float((output.polarity.detach() - scored["score"]).square().mean())
    )
    assert "classes" not in objective.logs
    loss.backward()
    with_gradient = {
        name for name, weight in model.heads.named_parameters() if weight.grad is not None and weight.grad.any()
    }
    assert with_gradient
    assert all("polarity" in name for name in with_gradient)


def test_expert_with_a_score_alone_is_selected_by_its_concordance(make_work: Make) -> None:
    work = make_work(domains=SCORE_ALONE)
    train_domain(work, "forum")
    folder = work.expert_folder("forum")
    card = read_expert_card(folder / CARD)
    assert (card.tasks, card.kinds, card.heads, card.polarity) == ({"forum": ()}, {"forum": "score"}, {}, True)
    assert card.metrics["ccc"] == card.metrics["forum_ccc"]
    assert "macro_f1" not in card.metrics
    report = evaluate_folder(work, folder, (), None, "forum", "soft", pin=False)
    assert (report.tasks, report.mean) == ({}, None)
    assert report.scores["forum"].ccc is not None
    with pytest.raises(Fault, match="tasks with a score alone, forum"):
        calibrate(work, folder)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_run_with_scores_alone_trains_merges_evaluates_and_predicts(make_work: Make, alone: bool) -> None:
    news = {"news": {"kind": "score", "labels": []}} if alone else {}
    work = make_work(domains=SCORE_ALONE | news, stages={"expert": FEW}, heads={"merge": "per_expert"})
    for domain in ("news", "forum"):
        train_domain(work, domain)
    merge_experts(work)
    verdict = train_router(work)
    assert verdict.startswith(f"best by validation {'CCC' if alone else 'mean of macro-F1 and CCC'}: ")
    best = best_model(work.out)
    metrics = read_card(best).metrics
    parts = [metrics["forum_ccc"], metrics["news_ccc" if alone else "news_macro_f1"]]
    assert metrics["ccc" if alone else "mean_of_tasks"] == pytest.approx(sum(parts) / 2)
    results = evaluate_run(work, pooled=False)
    best_scores, own, majority = (results.models[name]["forum"].figures for name in (best.name, OWN_EXPERT, "majority"))
    assert own.ccc is not None
    assert best_scores.ccc is not None
    assert majority.ccc == 0
    assert min(own.ccc, 2 * best_scores.ccc) > 0.4  # few steps of the router
    (stage,) = [row for row in write_report(work.out).stages if row.stage == "forum"]
    assert (stage.macro_f1, selection_value(stage)) == (None, (stage.ccc, ".3f"))
    (row,) = predict_rows([{"text": "the moon gained"}], load(resolve(best), LoadOptions()), task="forum")
    assert (row["label"], row["probabilities"], row["confidence"]) == (None, {}, None)
    assert -1 <= row["polarity"] <= 1
