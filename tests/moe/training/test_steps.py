"""Tests of the steps of a run: what each of them trains, writes and refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import LABELS, Make, made_up_rows, write_csv
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from experts.atomic_io import check_manifest
from experts.errors import Fault
from experts.expert_io import read_expert
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_card, read_mixture
from moe.evaluation.evaluate import evaluate
from moe.evaluation.metrics import SCORE_METRICS
from moe.inference.stream import predict_texts
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import load_backbone
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router, training_summary

TEXTS = ["profit rose today", "moon bags fell again", "the bank kept sales with orders"]


def train_all_steps(work: Workspace) -> Workspace:
    if work.run.shared:
        train_shared(work)
    for domain in work.run.domains:
        train_domain(work, domain)
    merge_experts(work)
    train_router(work)
    return work


def load_folder(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors in a folder, by file and name."""
    tensors = {}
    for path in sorted(folder.rglob("*.safetensors")):
        tensors |= {f"{path.relative_to(folder)}:{key}": value for key, value in load_file(path).items()}
    return tensors


def probabilities(folder: Path, texts: list[str] = TEXTS) -> torch.Tensor:
    model, card = read_mixture(folder)
    predictions = predict_texts(texts, TorchPredictor(model, card.template, 16))
    return torch.tensor([prediction.probabilities.tolist() for prediction in predictions])


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished run, shared by tests that do not change it."""
    from conftest import NOUNS, tiny_run

    folder = tmp_path_factory.mktemp("whole")
    for domain in NOUNS:
        write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    return train_all_steps(Workspace(tiny_run(tiny_folder, folder / "data"), folder / "run"))


def test_outputs_are_complete_and_hold_no_backbone_weight(run: Workspace) -> None:
    for name in ("experts/news", "experts/forum"):
        check_manifest(run.out / name, "an expert")
    for name in ("moe-init", "router-warmup", "moe-joint"):
        check_manifest(run.out / name, "a mixture")
        assert not [key for key in load_folder(run.out / name) if "embeddings" in key or "base_layer" in key]
    assert not list(run.out.rglob("checkpoint-*"))
    assert not list(run.out.rglob("*.bin"))


def test_expert_folder_has_card_config_metrics_and_readme(run: Workspace) -> None:
    folder = run.out / "experts" / "news"
    card = read_expert(folder).card
    assert card is not None
    assert card.tasks == {"news": LABELS}
    assert card.data_sha256["news"] == run.prepared("news")["news"].report.sha256
    assert {"config.yaml", "metrics.json", "README.md", "heads.safetensors"} <= {p.name for p in folder.iterdir()}
    assert json.loads((folder / "metrics.json").read_text())["best"]["macro_f1"] == card.metrics["macro_f1"]


def test_peft_loads_each_expert_and_computes_the_same_states(run: Workspace) -> None:
    ids = torch.randint(4, 40, (2, 6))
    for name in ("news", "forum"):
        model, _ = load_single_expert(run.out / "experts" / name)
        model.bank.set_adapter(name)
        folder = run.out / "moe-init" / "experts" / name
        peft = PeftModel.from_pretrained(load_backbone(run.run.backbone).model, str(folder)).eval()
        with torch.no_grad():
            states, peft_states = (m(input_ids=ids).last_hidden_state for m in (model.backbone, peft))
        torch.testing.assert_close(states, peft_states, atol=1e-5, rtol=1e-5)


def test_merge_changes_no_weight_of_an_expert(run: Workspace) -> None:
    for name in ("news", "forum"):
        before = load_file(run.out / "experts" / name / "adapter_model.safetensors")
        after = load_file(run.out / "moe-init" / "experts" / name / "adapter_model.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_warm_up_changes_router_and_heads_and_no_expert(run: Workspace) -> None:
    before, after = load_folder(run.out / "moe-init"), load_folder(run.out / "router-warmup")
    changed = {key.split(":")[0].split("/")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"router.safetensors", "heads.safetensors"}


def test_joint_stage_changes_experts_router_and_heads(run: Workspace) -> None:
    before, after = load_folder(run.out / "router-warmup"), load_folder(run.out / "moe-joint")
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert {key.split(":")[0] for key in changed} == {key.split(":")[0] for key in before}


def test_reloaded_mixture_predicts_the_same(run: Workspace, tmp_path: Path) -> None:
    copy = shutil.copytree(run.out / "moe-joint", tmp_path / "elsewhere")
    torch.testing.assert_close(probabilities(copy), probabilities(run.out / "moe-joint"), atol=0, rtol=0)


def test_result_names_the_best_mixture_by_validation(run: Workspace) -> None:
    result = json.loads((run.out / "result.json").read_text())
    scores = {name: metrics["macro_f1"] for name, metrics in result["validation"].items()}
    assert result["best"] in ("router-warmup", "moe-joint")
    assert scores[result["best"]] >= scores["router-warmup"], "the joint mixture is selected only if it is better"
    assert best_model(run.out) == run.out / result["best"]
    worse = scores["moe-joint"] < scores["router-warmup"]
    assert ("made it worse" in result["verdict"]) is worse


def test_trained_mixtures_record_the_routing_that_validation_rows_chose(run: Workspace) -> None:
    summary = training_summary([run.out / name for name in ("moe-init", "router-warmup", "moe-joint")]).folders
    assert summary[0].routing is None, "a merged mixture has an untrained router"
    for trained in summary[1:]:
        decision = read_card(Path(trained.folder)).routing
        assert decision is not None
        assert decision.rows == len(run.rows("validation"))
        assert trained.routing == decision.choice
        assert set(decision.figures) == {"soft", "pruned", "hard"}


def test_logs_hold_losses_weights_and_mean_gates(run: Workspace) -> None:
    lines = [json.loads(line) for line in (run.out / "logs" / "moe-joint" / "log.jsonl").read_text().splitlines()]
    names = {"classes", "polarity", "sentiment", "domain", "balance", "share_0", "share_1", "weight/domain"}
    assert lines[0]["step"] == 0  # the evaluation of the start
    assert "eval_macro_f1" in lines[0]
    assert names <= lines[1].keys()
    assert [line["step"] for line in lines if "classes" in line] == [1, 2, 3, 4, 5, 6]
    assert list((run.out / "logs" / "moe-joint").glob("events.*"))


def test_evaluation_of_an_expert_and_a_mixture_agree_on_rows(run: Workspace) -> None:
    model, card = read_mixture(run.out / "moe-joint")
    rows = run.rows("test")
    report, evaluated = evaluate(model, rows, card.template, 16)
    assert len(evaluated) == len(rows) == report.rows
    news = report.tasks["news"]
    assert news.weighted_recall == pytest.approx(news.accuracy)
    assert sum(map(sum, news.confusion.rows)) == news.rows
    assert {"mse", "mae", "rmse", "r2", *SCORE_METRICS} < report.scores["news"].model_fields_set
    expert, settings = load_single_expert(run.out / "experts" / "news")
    expert_report, _ = evaluate(expert, run.rows("test", ["news"]), settings.template, 16)
    assert expert_report.tasks["news"].rows == news.rows


def test_same_seed_and_data_give_the_same_weights(make_work: Make) -> None:
    first, second = (make_work(out) for out in ("one", "two"))
    for work in (first, second):
        train_domain(work, "news")
    a, b = (load_folder(work.out / "experts" / "news") for work in (first, second))
    assert all(torch.equal(a[key], b[key]) for key in a)
    other = make_work("three", seed=8)
    train_domain(other, "news")
    c = load_folder(other.out / "experts" / "news")
    assert any(not torch.equal(a[key], c[key]) for key in a)


@pytest.mark.slow
def test_wrong_domain_labels_change_the_router(make_work: Make, run: Workspace) -> None:
    def router_after(swap: bool) -> dict[str, torch.Tensor]:
        work = make_work(f"swap{swap}")
        for domain in ("news", "forum"):
            train_domain(work, domain)
        merge_experts(work)
        if swap:
            work = make_work("swapTrue", domains={"news": {"file": "forum.csv"}, "forum": {"file": "news.csv"}})
        train_router(work)
        return load_file(work.out / "router-warmup" / "router.safetensors")

    right, wrong = router_after(False), router_after(True)
    assert any(not torch.equal(right[key], wrong[key]) for key in right)


def test_shared_expert_is_frozen_below_the_others_and_required_to_merge_them(make_work: Make) -> None:
    work = train_all_steps(make_work(shared={"r": 3}, heads={"merge": "per_expert"}))
    model, card = read_mixture(work.out / "moe-joint")
    assert card.shared == ("shared",)
    assert model.bank.routed_experts == ("news", "forum")
    shared = read_expert(work.out / "experts" / "shared")
    expert = read_expert(work.out / "experts" / "news")
    assert expert.card is not None
    assert expert.card.shared == shared.digest
    before, warm, joint = (
        load_file(folder / "shared" / "adapter_model.safetensors")
        for folder in (work.out / "experts", *(work.out / name / "experts" for name in ("router-warmup", "moe-joint")))
    )
    assert all(torch.equal(before[key], warm[key]) for key in before)
    assert not any(torch.equal(before[key], joint[key]) for key in before), "the joint stage trains all experts"
    plain = make_work("run", shared=None)
    with pytest.raises(Fault, match="shared expert"):
        merge_experts(plain, overwrite=True)


def test_domain_with_two_experts_trains_two_different_ones(make_work: Make) -> None:
    work = train_all_steps(make_work(domains={"forum": {"experts": 2}}, gate={"kind": "team"}))
    model, _ = read_mixture(work.out / "moe-joint")
    assert model.bank.routed_experts == ("news", "forum-1", "forum-2")
    a, b = (load_folder(work.out / "experts" / name) for name in ("forum-1", "forum-2"))
    assert any(not torch.equal(a[key], b[key]) for key in a)


def test_merge_accepts_a_plain_peft_adapter(make_work: Make) -> None:
    work = make_work()
    train_domain(work, "news")
    config = LoraConfig(r=3, target_modules=["query", "value"], layers_to_transform=[1], layers_pattern="layer")
    plain = get_peft_model(load_backbone(work.run.backbone).model, config)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    plain.save_pretrained(str(work.out / "plain" / "forum"))
    merge_experts(work, [work.out / "experts" / "news", work.out / "plain" / "forum"])
    model, _ = read_mixture(work.out / "moe-init")
    assert model.bank.routed_experts == ("news", "forum")
    assert torch.isfinite(probabilities(work.out / "moe-init")).all()


def test_new_domain_needs_only_settings(make_work: Make) -> None:
    work = train_all_steps(make_work(domains={"macro": {"file": "macro.csv", "labels": list(LABELS)}}))
    model, _ = read_mixture(work.out / "moe-joint")
    assert model.bank.routed_experts == ("news", "forum", "macro")


def test_finished_steps_are_overwritten_only_with_overwrite(make_work: Make) -> None:
    work = train_all_steps(make_work())
    folders = [work.out / name for name in ("experts/news", "experts/forum", "moe-init", "router-warmup", "moe-joint")]
    written = [(folder / "manifest.json").stat().st_mtime_ns for folder in folders]
    assert not work.reused
    verdict = json.loads((work.out / "result.json").read_text())["verdict"]
    train_all_steps(work)
    assert work.reused == folders
    assert [(folder / "manifest.json").stat().st_mtime_ns for folder in folders] == written
    assert train_router(work) == verdict
    train_domain(work, "news", overwrite=True)
    assert (folders[0] / "manifest.json").stat().st_mtime_ns > written[0]


def test_steps_out_of_order_name_the_missing_step(make_work: Make) -> None:
    work = make_work()
    with pytest.raises(Fault, match="moe train-expert --all"):
        merge_experts(work)
    with pytest.raises(Fault, match="Run moe merge first"):
        train_router(work)
    with pytest.raises(Fault, match="one of the domains news, forum"):
        train_domain(work, "sports")
    with pytest.raises(Fault, match=r"shared.r"):
        train_shared(work)
