"""Tests of the mixture: equality with single experts, gradients of experts, router and heads, ablations."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from conftest import Make, family_params, made_up_rows, save_backbone, tiny_run, write_csv
from mixtures import TEXTS, build_batch, build_objective, random_mixture, tokenize_texts
from peft import PeftModel
from torch import Tensor

from experts.domain import Domain, LabelSpace
from experts.expert_io import write_adapter
from moe.config.stages import JOINT, WARMUP, LossSettings
from moe.model.backbone import load_backbone
from moe.model.heads import LabelTables, mask_logits
from moe.model.mode import RoutingMode
from moe.runs.workspace import Workspace
from moe.training.loss.global_batch import LossContext, gather_batch
from moe.training.loss.objective import Objective
from moe.training.trainer import set_trainable
from router.registry import DAOSettings


@pytest.mark.parametrize("family", family_params("bert", "gpt2", "llama", "deberta-v2"))
def test_mixture_pinned_to_one_expert_equals_it_under_peft_with_its_heads(family: str, tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "backbone", family)
    write_csv(tmp_path / "data" / "news.csv", made_up_rows("news"))
    work = Workspace(tiny_run(folder, tmp_path / "data"), tmp_path)
    model = random_mixture(load_backbone(work.run.backbone), work)
    forum = torch.tensor([[False, True]] * 3)
    with torch.no_grad():
        pinned = model(**tokenize_texts(model), allowed=forum)
        states = model.bank.backbone(**tokenize_texts(model)).last_hidden_state  # the route is still set
    write_adapter(tmp_path / "forum", model.bank.adapters["forum"].adapter, model.bank.adapter_parameters("forum"))
    single = PeftModel.from_pretrained(load_backbone(work.run.backbone).model, str(tmp_path / "forum")).eval()
    with torch.no_grad():
        expected = single(**tokenize_texts(model)).last_hidden_state
    mask = tokenize_texts(model)["attention_mask"][..., None]
    torch.testing.assert_close(states * mask, expected * mask, atol=1e-5, rtol=1e-5)
    own = model.heads.experts["forum"](pinned.pooled)
    for head, logits in pinned.logits.items():
        torch.testing.assert_close(logits, own.logits[head], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pinned.polarity, own.polarity, atol=1e-5, rtol=1e-5)


def test_mixture_runs_the_backbone_once_per_batch(make_work: Make) -> None:
    work = make_work()
    model, calls = random_mixture(load_backbone(work.run.backbone), work), []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    model(**tokenize_texts(model))
    assert calls == [1]


def test_router_logits_are_equal_in_training_and_evaluation(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work)
    next(module for module in model.gate.net if isinstance(module, torch.nn.Dropout)).p = 0.0
    batch = tokenize_texts(model)
    with torch.no_grad():
        before = model.eval()(**batch).routing.logits
        after = model.train()(**batch).routing.logits
    torch.testing.assert_close(after, before)


def test_backbone_dropout_acts_only_in_training_and_not_on_the_router(make_work: Make) -> None:
    work = make_work(backbone={"dropout": 0.5, "trunk_depth": 1})
    model = random_mixture(load_backbone(work.run.backbone), work)
    next(module for module in model.gate.net if isinstance(module, torch.nn.Dropout)).p = 0.0
    batch = tokenize_texts(model)
    with torch.no_grad():
        evaluated, again = model.eval()(**batch), model(**batch)
        first, second = model.train()(**batch), model(**batch)
    torch.testing.assert_close(again.pooled, evaluated.pooled)
    torch.testing.assert_close(first.routing.logits, evaluated.routing.logits)
    assert not torch.allclose(first.pooled, second.pooled, atol=1e-3)


@pytest.mark.parametrize("heads", ["averaged", "per_expert"])
def test_joint_step_gives_gradients_to_all_experts_router_and_heads(make_work: Make, heads: str) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work, heads=heads)
    set_trainable(model, JOINT, None)
    model.train()
    batch = build_batch(model, work)
    build_objective(model)(model(**batch), batch).backward()
    for name in model.bank.routed_experts:
        assert all(p.grad is not None and p.grad.any() for p in model.bank.adapter_parameters(name).values()), name
    assert model.gate.net[-1].weight.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in model.heads.parameters())
    assert all(p.grad is None for n, p in model.backbone.named_parameters() if "lora_" not in n)


def test_router_gets_gradients_with_two_experts_per_role(make_work: Make) -> None:
    work = make_work(domains={"forum": {"experts": 2}})
    model = random_mixture(load_backbone(work.run.backbone), work, gate="team", experts=2)
    mode = set_trainable(model, JOINT, None)
    model.train()
    batch = build_batch(model, work)
    out = model(**batch, mode=mode)
    role_gates = out.routing.gates[:, 1:]
    assert ((role_gates > 0).sum(1) == 1).all(), "one expert of the role is active"
    torch.testing.assert_close(out.routing.gates.sum(1), torch.ones(len(role_gates)))
    build_objective(model)(out, batch).backward()
    assert model.gate.net[-1].weight.grad.any()
    assert not mode.detach_gates


def test_detached_gates_stop_the_sentiment_gradient_before_the_router(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work)
    mode = set_trainable(model, WARMUP, None)
    assert mode.detach_gates
    model.train()
    batch = build_batch(model, work)
    out = model(**batch, mode=mode)
    loss = build_objective(model, WARMUP)
    losses, _ = loss._sentiment_losses(gather_batch([(out, batch)], model.domain_expert_mask))
    losses["classes"].backward()
    assert all(p.grad is None for p in model.gate.parameters())
    assert any(p.grad is not None for p in model.heads.parameters())


def test_objective_sentiment_gradient_norm_equals_autograd(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work).eval()
    set_trainable(model, JOINT, None)
    batch = build_batch(model, work)
    loss = build_objective(model, JOINT, inner="constant", classes="cross_entropy")
    out = model(**batch)
    losses, _ = loss._sentiment_losses(gather_batch([(out, batch)], model.domain_expert_mask))
    (grad,) = torch.autograd.grad(sum(losses.values()), out.routing.logits_for_loss, retain_graph=True)
    expected = float(grad.norm() * len(grad) ** 0.5)
    norms: list[float] = []
    loss.outer.observe = lambda name, norm: norms.append(float(norm)) if name == "sentiment" else None
    loss(out, batch).backward()
    loss.finish_step()
    assert norms[-1] == pytest.approx(expected, rel=1e-5)


def test_inner_dao_can_measure_gradients_at_all_expert_parameters(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work).eval()
    set_trainable(model, JOINT, None)
    batch = build_batch(model, work)
    settings = LossSettings(measured="parameters", classes="cross_entropy")
    loss = Objective(
        JOINT, settings, DAOSettings(), model.labels, model.domain_expert_mask, seed=0, context=LossContext.of(model)
    )
    out = model(**batch)
    losses, _ = loss._sentiment_losses(gather_batch([(out, batch)], model.domain_expert_mask))
    expected = {}
    for name, value in losses.items():
        gradients = torch.autograd.grad(
            value, list(model.expert_parameters().values()), retain_graph=True, allow_unused=True
        )
        expected[name] = float(torch.cat([g.flatten() for g in gradients if g is not None]).norm())
    norms: dict[str, float] = {}
    loss.inner.observe = lambda name, norm: norms.update({name: float(norm)})
    loss(out, batch).backward()
    assert set(norms) == {"classes", "polarity"}
    assert norms == pytest.approx(expected, rel=1e-4)


def test_router_ignores_special_and_padding_tokens(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work)
    summaries = []
    model.gate.logits = lambda summary, inner=model.gate.logits: summaries.append(summary) or inner(summary)
    with torch.no_grad():
        model(**tokenize_texts(model))
        short = model.loaded_backbone.tokenizer(TEXTS[:1], return_tensors="pt")
        model(input_ids=short["input_ids"], attention_mask=short["attention_mask"])
    torch.testing.assert_close(summaries[0][:1], summaries[1], atol=1e-5, rtol=1e-5)


def test_mask_logits_excludes_unused_labels_from_loss_and_gradient() -> None:
    space = LabelSpace.from_domains([Domain("news", {"news": ("a", "b", "c")}), Domain("forum", {"forum": ("a", "c")})])
    assert space.head_by_task["news"] == space.head_by_task["forum"]
    mask = LabelTables.of(space).masks["a-b-c"][[1]]
    logits = torch.zeros(1, 3, requires_grad=True)
    torch.nn.functional.cross_entropy(mask_logits(logits, mask), torch.tensor([2])).backward()
    assert mask.tolist() == [[True, False, True]]
    assert logits.grad[0, 1] == 0
    assert logits.grad[0, 0] != 0


def test_frozen_experts_pass_gradients_to_the_router_after_inference(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work)
    with torch.inference_mode():
        model(**tokenize_texts(model))
    model.bank.train_only()
    model(**tokenize_texts(model)).pooled.sum().backward()
    assert all(parameter.grad is None for parameter in model.expert_parameters().values())
    assert next(model.gate.parameters()).grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_compiled_layers_give_the_same_logits_and_gradients(family: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "data" / "news.csv", made_up_rows("news"))
    work = Workspace(tiny_run(save_backbone(tmp_path / "backbone", family), tmp_path / "data"), tmp_path)
    eager = random_mixture(load_backbone(work.run.backbone), work)
    compiled = random_mixture(load_backbone(work.run.backbone.model_copy(update={"compile": True})), work)
    compiled.load_trained_state(eager.trained_state())
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    results = []
    for model in (eager, compiled):
        with torch.inference_mode():
            evaluated = model(**tokenize_texts(model)).logits
        model.train()
        model.gate.eval()
        model.heads.eval()
        out = model(**tokenize_texts(model))
        sum(logits.square().sum() for logits in out.logits.values()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert any("lora_A" in name for name in gradients)
        results.append((evaluated, out.logits, gradients))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs
    for expected, actual in zip(*results, strict=True):
        assert expected.keys() == actual.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(actual[name], tensor, atol=1e-4, rtol=1e-4)


def test_ablated_expert_has_zero_gate_and_the_others_are_renormalized(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work, experts=2)
    with torch.no_grad():
        full = model(**tokenize_texts(model)).routing.gates  # (B, E)
        gates = model(**tokenize_texts(model), mode=RoutingMode(without=("news",))).routing.gates  # (B, E)
        again = model(**tokenize_texts(model)).routing.gates  # (B, E)
    assert gates[:, 0].eq(0).all()
    torch.testing.assert_close(gates[:, 1:], full[:, 1:] / full[:, 1:].sum(1, keepdim=True))
    torch.testing.assert_close(again, full)


def test_ablation_sends_text_pinned_to_ablated_experts_to_the_others(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work)
    pinned = torch.tensor([[True, False], [False, True], [True, False]])
    mode = RoutingMode(without=("news",), hard=True)
    with torch.no_grad():
        gates = model(**tokenize_texts(model), allowed=pinned, mode=mode).routing.gates  # (B, E)
    assert gates.tolist() == [[0.0, 1.0]] * 3


def test_mixture_threads_with_different_modes_get_the_outputs_of_each_mode_alone(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work, experts=2).eval()
    inputs, name = tokenize_texts(model), model.bank.routed_experts[0]
    modes = [RoutingMode(), RoutingMode(hard=True), RoutingMode(without=(name,)), RoutingMode(active_expert=name)]

    @torch.inference_mode()
    def pooled(mode: RoutingMode) -> Tensor:
        return model(**inputs, mode=mode).pooled  # (B, D)

    alone = [pooled(mode) for mode in modes]
    assert all(not torch.allclose(alone[0], other) for other in alone[1:]), "the modes differ"
    barrier = Barrier(len(modes))

    def many(mode: RoutingMode) -> list[Tensor]:
        barrier.wait()
        return [pooled(mode) for _ in range(20)]

    with ThreadPoolExecutor(len(modes)) as threads:
        for expected, outputs in zip(alone, threads.map(many, modes), strict=True):
            assert all(torch.equal(expected, output) for output in outputs)


def test_merged_weights_of_one_expert_leave_passes_of_other_modes_unchanged(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work).eval()
    inputs = tokenize_texts(model)
    with torch.inference_mode():
        soft, forum = (model(**inputs, mode=m).pooled for m in (RoutingMode(), RoutingMode(active_expert="forum")))
        with model.single_expert("news") as mode:
            merged = model(**inputs, mode=mode).pooled
            torch.testing.assert_close(model(**inputs).pooled, soft, rtol=0, atol=0)
            other = model(**inputs, mode=RoutingMode(active_expert="forum")).pooled
        torch.testing.assert_close(other, forum, rtol=0, atol=0)
        torch.testing.assert_close(merged, model(**inputs, mode=mode).pooled, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(merged, soft)


def test_uniform_gates_ignore_the_router(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work, experts=2)
    uniform, rest = RoutingMode(uniform_gates=True), RoutingMode(uniform_gates=True, without=("news",))
    with torch.no_grad():
        gates, remaining = (model(**tokenize_texts(model), mode=mode).gates for mode in (uniform, rest))  # (B, E)
    torch.testing.assert_close(gates, torch.full((3, 3), 1 / 3))
    torch.testing.assert_close(remaining, torch.tensor([[0.0, 0.5, 0.5]] * 3))


@pytest.mark.parametrize(
    ("without", "remaining"),
    [
        (["domain"], {"classes", "polarity", "balance"}),
        (["polarity", "balance"], {"classes", "domain"}),
        (["domain", "balance"], {"classes", "polarity"}),
    ],
)
def test_objective_does_not_compute_a_loss_that_is_left_out(
    make_work: Make, without: list[str], remaining: set[str]
) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work)
    for stage in (WARMUP, JOINT):
        loss = build_objective(model, stage, without=without)
        total = loss(model(**(batch := build_batch(model, work))), batch)
        total.backward()
        assert {"classes", "polarity", "domain", "balance"} & loss.logs.keys() == remaining
        assert total.isfinite()
