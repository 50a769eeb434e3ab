"""Tests of pre-training of roles: lower perplexity on the role's text, the best weights, output that PEFT loads."""

import math
from pathlib import Path

import pytest
import torch
from conftest import tiny_settings, tiny_tokenizer
from corpora import make_lm_workspace
from peft import PeftModel
from transformers import AutoModelForCausalLM

from experts.atomic_io import read_json
from experts.errors import Fault
from experts.expert_io import read_expert
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.messages import ConfigFault
from moe.config.run import parse_run
from moe.data.pretraining_corpus import DocumentReader
from moe.model.mode import RoutingMode
from moe.runs.workspace import Workspace
from moe.training.language.lm_dataset import LMCorpora
from moe.training.language.pretrain import pretrain, pretrain_shared
from moe.training.steps import merge_experts


@pytest.fixture(scope="module", params=["llama", "gpt2", "bert"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Pre-trained expert of news, for two decoders and an encoder."""
    work = make_lm_workspace(tmp_path_factory.mktemp(request.param), request.param)
    pretrain(work, "news")
    return work


def test_expert_improves_on_its_role_and_is_better_there_than_on_other_text(trained: Workspace) -> None:
    metrics = read_json(trained.expert_folder("news") / "metrics.json")
    first, best = metrics["history"][0], metrics["best"]
    assert first["step"] == 0
    assert best["perplexity"] == best["perplexity_news"] < 0.85 * first["perplexity_news"]
    assert best["perplexity_news"] < min(best[f"perplexity_{name}"] for name in ("forum", "macro", "general"))
    assert best["perplexity"] == min(entry["perplexity"] for entry in metrics["history"])


def test_saved_expert_has_the_reported_perplexity(trained: Workspace) -> None:
    model, _ = load_single_expert(trained.expert_folder("news"))
    best = read_json(trained.expert_folder("news") / "metrics.json")["best"]
    assert LMCorpora(trained, model).packed_data(["news"]).evaluate()["perplexity"] == pytest.approx(
        best["perplexity"], rel=1e-5
    )


def test_perplexity_equals_that_of_transformers_and_peft(tmp_path: Path) -> None:
    work = make_lm_workspace(tmp_path, "llama")
    (folder,) = pretrain(work, "news")
    peft_model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), str(folder)).eval()
    assert type(peft_model).__name__ == "PeftModelForCausalLM"
    model, _ = load_single_expert(folder)
    tokenizer, total, count = LMCorpora(work, model).tokenizer(packed=True), 0.0, 0
    lines = list(DocumentReader(tmp_path / "data" / "news.txt"))
    rows = list(LMCorpora(work, model)._held_out(packed=True)["news"])
    pieces = [piece for row in rows for piece in torch.tensor(row["input_ids"]).split(row["lengths"])]
    assert sum(map(len, pieces)) == sum(len(ids) for ids in tokenizer.documents(lines[-8:]))
    for piece in pieces:
        if len(piece) > 1:
            with torch.no_grad():
                loss = peft_model(input_ids=piece[None], labels=piece[None]).loss
            total, count = total + float(loss) * (len(piece) - 1), count + len(piece) - 1
    best = read_json(folder / "metrics.json")["best"]
    assert best["perplexity_news"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_pretrain_trains_only_the_experts_of_a_role_and_no_backbone_weight(tmp_path: Path) -> None:
    work = make_lm_workspace(tmp_path)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    folders = pretrain(work, "talk")
    assert [folder.name for folder in folders] == ["forum", "macro"]
    assert not work.expert_folder("news").exists()
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    card = read_expert(folders[0]).card
    assert card is not None
    assert (card.role, card.heads, card.tasks) == ("talk", {}, {})


def test_general_text_is_mixed_in_at_the_configured_share(tmp_path: Path) -> None:
    work = make_lm_workspace(tmp_path, language={"mix": 0.25})
    from experts.adapter import build_adapter
    from moe.checkpoints.expert import build_expert_model

    rows = LMCorpora(work, build_expert_model(work.run, "news", build_adapter, False, 0)).packed_data(["news"]).rows
    domains = list(rows["domain"])
    assert domains.count("general") / len(domains) == pytest.approx(0.25, abs=0.03)


def test_finished_expert_is_kept_unless_its_corpus_has_changed(tmp_path: Path) -> None:
    work = make_lm_workspace(tmp_path, stages={"pretrain": {"steps": 2, "evals": 1}})
    (folder,) = pretrain(work, "news")
    before = (folder / "manifest.json").stat().st_mtime_ns
    for resume in (False, True):
        pretrain(work, "news", resume=resume)
        assert (folder / "manifest.json").stat().st_mtime_ns == before
    corpus = work.run.data.path(work.run.domains["news"].corpus[0])
    corpus.write_text(corpus.read_text() + "the profit rose again\n")
    with pytest.raises(Fault, match="the data of news have changed since"):
        pretrain(work, "news")


def test_shared_expert_improves_on_all_roles_and_others_improve_on_top_of_it(tmp_path: Path) -> None:
    work = make_lm_workspace(
        tmp_path, shared={"r": 4}, stages={"shared": {"steps": 40, "batch_size": 8, "lr": 0.03, "evals": 2}}
    )
    with pytest.raises(Fault, match=r"the shared expert.*none.*moe pretrain --shared"):
        pretrain(work, "news")
    shared = pretrain_shared(work)
    weights = (shared / "adapter_model.safetensors").read_bytes()
    metrics = read_json(shared / "metrics.json")
    first, best = metrics["history"][0], metrics["best"]
    for name in work.run.domains:
        assert best[f"perplexity_{name}"] < 0.85 * first[f"perplexity_{name}"]
    parts = [best[f"perplexity_{name}"] for name in work.run.domains]
    assert min(parts) < best["perplexity"] < max(parts)

    (folder,) = pretrain(work, "news")
    metrics = read_json(folder / "metrics.json")
    start = metrics["history"][0]
    assert start["perplexity_news"] == pytest.approx(best["perplexity_news"], rel=1e-5)
    assert metrics["best"]["perplexity_news"] < start["perplexity_news"]
    assert (shared / "adapter_model.safetensors").read_bytes() == weights
    card = read_expert(folder).card
    assert card is not None
    assert card.shared == read_expert(shared).digest

    pretrain(work, "talk")
    model, _ = read_mixture(merge_experts(work))
    assert model.bank.shared_experts == ("shared",)
    model.mode = RoutingMode(without=model.bank.routed_experts)
    shared_only = LMCorpora(work, model).packed_data(list(work.run.domains)).evaluate()
    assert shared_only == pytest.approx({name: best[name] for name in shared_only}, rel=1e-5)


def test_pretrain_shared_refuses_a_run_without_a_shared_expert(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"a shared expert.*shared\.r=12"):
        pretrain_shared(make_lm_workspace(tmp_path))


def test_pretrain_refuses_unknown_roles_and_runs_without_corpus_or_language_model(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"one of the roles news, talk.*'tlak'.*talk"):
        pretrain(make_lm_workspace(tmp_path), "tlak")
    with pytest.raises(Fault, match=r"corpus for news.*no file"):
        pretrain(make_lm_workspace(tmp_path, domains={"news": {"corpus": []}}), "news")
    plain = parse_run(tiny_settings(tmp_path / "model", tmp_path / "data"), "test")
    with pytest.raises(Fault, match="language"):
        pretrain(Workspace(plain, tmp_path / "run"))


def test_config_refuses_a_domain_named_general_in_a_language_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match=r"domains\.general"):
        make_lm_workspace(tmp_path, domains={"general": {"corpus": ["general.txt"]}})


def test_pretrain_refuses_an_encoder_without_a_mask_token(tmp_path: Path) -> None:
    work = make_lm_workspace(tmp_path, "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(Fault, match="mask token"):
        pretrain(work, "news")
