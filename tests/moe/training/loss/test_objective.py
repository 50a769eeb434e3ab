"""Tests of the loss: every weighting method and every class-imbalance setting trains, and has an effect."""

import pytest
import torch
from conftest import NOUNS, Make, made_up_rows, write_csv
from mixtures import build_batch, random_mixture
from torch import Tensor

from experts.domain import LabelSpace
from moe.config.stages import JOINT, WARMUP, LossSettings
from moe.data.collator import Batch, Collator
from moe.data.sampler import DomainBatchSampler
from moe.model.backbone import load_backbone
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.loss.global_batch import LossContext
from moe.training.loss.holdout import HoldoutSampler
from moe.training.loss.objective import Objective
from moe.training.stage import count_labels, warn_equal_class_weights
from moe.training.trainer import set_trainable
from router.registry import DAOSettings

KINDS = ("dao", "constant", "equal", "uncertainty", "dwa", "gradnorm", "pcgrad")


def make_objective(work: Workspace, model: Mixture, dao: DAOSettings = DAOSettings(), **losses: object) -> Objective:
    settings = LossSettings.model_validate(losses)
    counts = count_labels(work.rows("train"), model.labels)
    context, mask = LossContext.of(model), model.domain_expert_mask
    return Objective(JOINT, settings, dao, model.labels, mask, seed=0, context=context, counts=counts)


def make_model_and_batch(work: Workspace) -> tuple[Mixture, Batch]:
    model = random_mixture(load_backbone(work.run.backbone), work)
    set_trainable(model, JOINT, None)
    return model, build_batch(model, work)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weighting_method_trains_router_experts_and_heads(make_work: Make, kind: str) -> None:
    work = make_work()
    model, batch = make_model_and_batch(work)
    loss = make_objective(work, model, inner=kind, outer=kind)
    for _ in range(3):
        model.zero_grad()
        total = loss(model(**batch), batch)
        total.backward()
    assert torch.isfinite(total)
    for part in (model.gate, model.heads):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    assert any(p.grad.abs().sum() > 0 for p in model.expert_parameters().values())
    assert {"weight/sentiment", "weight/domain", "weight/balance", "inner/w_classes"} <= loss.logs.keys()
    assert loss.logs["weight/sentiment"] == pytest.approx(1.0)


def gradient(work: Workspace, **losses: object) -> Tensor:
    """Gradient of the class head on an imbalanced batch."""
    model, batch = make_model_and_batch(work)
    model.eval()
    loss = make_objective(work, model, **({"inner": "equal", "outer": "constant", "smoothing": 0.0} | losses))
    loss(model(**batch), batch).backward()
    return torch.cat([p.grad.flatten() for n, p in model.heads.named_parameters() if "classes" in n])


@pytest.fixture
def imbalanced(make_work: Make) -> Workspace:
    """Run in which news and forum have seven rows of the first label for each row of another."""
    work = make_work()
    folder = work.run.data.path("news.csv").parent
    for domain in NOUNS:
        rows = made_up_rows(domain, 180)
        selected = [row for i, row in enumerate(rows) if row["label"] == "negative" or i % 7 == 0]
        write_csv(folder / f"{domain}.csv", selected)
    return work


@pytest.mark.parametrize(
    "setting",
    [
        {"classes": "dao"},
        {"classes": "effective", "effective_beta": 0.99},
        {"classes": "effective"},
        {"classes": "cross_entropy", "focal": 2.0},
        {"classes": "cross_entropy", "smoothing": 0.1},
    ],
)
def test_every_imbalance_setting_changes_the_gradient_of_imbalanced_rows(
    imbalanced: Workspace, setting: dict[str, object]
) -> None:
    plain = gradient(imbalanced, classes="cross_entropy")
    changed = gradient(imbalanced, **setting)
    assert (changed - plain).norm() > 0.02 * plain.norm()


def test_class_weights_without_effect_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    finnf = {"news": torch.tensor([775_905, 635_353, 215_034])}
    warn_equal_class_weights(LossSettings(classes="effective", effective_beta=0.99), finnf)
    assert "has no effect" in capsys.readouterr().err
    warn_equal_class_weights(LossSettings(classes="effective", effective_beta=0.999999), finnf)
    warn_equal_class_weights(LossSettings(classes="cross_entropy"), finnf)
    assert not capsys.readouterr().err


def test_label_counts_are_in_the_order_of_the_head(make_work: Make) -> None:
    two = [row for row in made_up_rows("forum") if row["label"] != "neutral"]
    work = make_work(domains={"forum": {"file": "forum.csv", "labels": ["positive", "negative"]}})
    write_csv(work.run.data.path("forum.csv"), two)
    space: LabelSpace = work.run.label_space()
    counts = count_labels(work.rows("train"), space)
    assert space.heads[space.head_by_task["forum"]] == ("negative", "neutral", "positive")
    assert counts["forum"].tolist() == [18, 0, 18]
    assert counts["news"].tolist() == [18, 18, 18]


def holdout_sampler(work: Workspace, model: Mixture) -> HoldoutSampler:
    rows = work.rows("train")
    domains = torch.tensor([row == "news" for row in rows["domain"]]).numpy()
    batches = DomainBatchSampler(domains, torch.ones(len(rows)).numpy(), 4, 1.0, 3)
    collate = Collator(model.loaded_backbone.tokenizer, "{text}", 16, model.labels, [d.name for d in model.domains])
    return HoldoutSampler(model, model.mode, rows, batches, collate)


def test_validation_objective_trains_both_weight_nets_and_leaves_the_step_unchanged(make_work: Make) -> None:
    work = make_work(lora={"dropout": 0.0}, heads={"dropout": 0.0}, gate={"dropout": 0.0})
    grads, nets = [], []
    for ahead in (False, True):
        model, batch = make_model_and_batch(work)
        loss = make_objective(work, model, DAOSettings(objective="validation", every=1), classes="cross_entropy")
        assert loss.needs_holdout
        if ahead:
            loss.context.holdout = holdout_sampler(work, model)
        model.eval()
        before = {name: p.clone() for name, p in model.trained_state().items()}
        loss(model(**batch), batch).backward()
        assert all(torch.equal(p, before[name]) for name, p in model.trained_state().items())
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        nets.append([level.net.second.weight.abs().sum().item() for level in (loss.inner, loss.outer)])
    assert nets[0] == [0.0, 0.0]
    assert all(moved > 0 for moved in nets[1])
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():  # the first step still uses the weights of the untrained net
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-4)


def test_holdout_pass_restores_the_routing_state(make_work: Make) -> None:
    work = make_work()
    model, batch = make_model_and_batch(work)
    model(**batch)
    before = model.bank.route.gates
    output, other = holdout_sampler(work, model)()
    assert model.bank.route.gates is before
    assert len(output.pooled) == len(other["label"]) == 4


@pytest.mark.parametrize("kind", ["dao", "gradnorm", "pcgrad"])
def test_expert_trains_with_every_inner_method(make_work: Make, kind: str) -> None:
    work = make_work(losses={"inner": kind}, dao={"objective": "validation", "every": 2})
    (folder,) = train_domain(work, "news")
    assert (folder / "adapter_model.safetensors").is_file()


def test_look_ahead_is_skipped_if_sentiment_has_no_gradient_in_the_router(make_work: Make) -> None:
    work = make_work()
    model, batch = make_model_and_batch(work)
    mode = set_trainable(model, WARMUP, None)
    settings, dao = LossSettings(inner="equal"), DAOSettings(objective="validation", every=1)
    context, mask = LossContext.of(model), model.domain_expert_mask
    loss = Objective(WARMUP, settings, dao, model.labels, mask, seed=0, context=context)
    loss.context.holdout = lambda: pytest.fail("a held-out batch is run")
    loss(model(**batch, mode=mode), batch).backward()
    with pytest.raises(pytest.fail.Exception, match="held-out batch"):
        loss(model(**batch), batch)
