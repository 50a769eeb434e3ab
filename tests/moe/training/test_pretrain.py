"""Claims about role pre-training: it learns its role's text, keeps its best, and writes what PEFT reads."""

import math
from pathlib import Path

import pytest
import torch
from conftest import tiny_settings, tiny_tokenizer
from corpora import make
from peft import PeftModel
from transformers import AutoModelForCausalLM

from experts.atomic_io import read_json
from experts.errors import Fault
from experts.expert_io import read_expert
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import ConfigFault, parse_run
from moe.data.pretraining_corpus import DocumentReader
from moe.runs.workspace import Workspace
from moe.training.lm_dataset import LMCorpora
from moe.training.pretrain import pretrain, pretrain_shared
from moe.training.steps import merge_experts


@pytest.fixture(scope="module", params=["llama", "gpt2", "bert"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The expert of news, of two decoders and an encoder."""
    work = make(tmp_path_factory.mktemp(request.param), request.param)
    pretrain(work, "news")
    return work


def test_an_expert_foresees_its_own_roles_text_better_than_before_and_than_others(trained: Workspace) -> None:
    metrics = read_json(trained.expert_folder("news") / "metrics.json")
    first, best = metrics["history"][0], metrics["best"]
    assert first["step"] == 0
    assert best["perplexity"] == best["perplexity_news"] < 0.85 * first["perplexity_news"]
    assert best["perplexity_news"] < min(best[f"perplexity_{name}"] for name in ("forum", "macro", "general"))
    assert best["perplexity"] == min(entry["perplexity"] for entry in metrics["history"])


def test_what_was_measured_is_the_model_that_was_written(trained: Workspace) -> None:
    model, _ = load_single_expert(trained.expert_folder("news"))
    best = read_json(trained.expert_folder("news") / "metrics.json")["best"]
    assert LMCorpora(trained, model).packed_data(["news"]).evaluate()["perplexity"] == pytest.approx(
        best["perplexity"], rel=1e-5
    )


def test_perplexity_is_transformers_own_with_the_adapter_under_peft(tmp_path: Path) -> None:
    work = make(tmp_path, "llama")
    (folder,) = pretrain(work, "news")
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), str(folder)).eval()
    assert type(whole).__name__ == "PeftModelForCausalLM"
    model, _ = load_single_expert(folder)
    tokens, total, count = LMCorpora(work, model).tokenizer(True), 0.0, 0
    lines = list(DocumentReader(tmp_path / "data" / "news.txt"))
    rows = list(LMCorpora(work, model)._held_out(True)["news"])
    pieces = [piece for row in rows for piece in torch.tensor(row["input_ids"]).split(row["lengths"])]
    assert sum(map(len, pieces)) == sum(len(ids) for ids in tokens.documents(lines[-8:]))
    for piece in pieces:
        if len(piece) > 1:
            with torch.no_grad():
                loss = whole(input_ids=piece[None], labels=piece[None]).loss
            total, count = total + float(loss) * (len(piece) - 1), count + len(piece) - 1
    best = read_json(folder / "metrics.json")["best"]
    assert best["perplexity_news"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_only_the_experts_of_a_role_are_trained_and_no_backbone_weight_changes(tmp_path: Path) -> None:
    work = make(tmp_path)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    folders = pretrain(work, "talk")
    assert [folder.name for folder in folders] == ["forum", "macro"]
    assert not work.expert_folder("news").exists()
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    card = read_expert(folders[0]).card
    assert card is not None
    assert (card.role, card.heads, card.tasks) == ("talk", {}, {})


def test_general_text_is_mixed_in_by_its_share(tmp_path: Path) -> None:
    work = make(tmp_path, language={"mix": 0.25})
    from experts.adapter import build_adapter
    from moe.checkpoints.expert import build_expert_model

    rows = LMCorpora(work, build_expert_model(work.run, "news", build_adapter, False, 0)).packed_data(["news"]).rows
    domains = list(rows["domain"])
    assert domains.count("general") / len(domains) == pytest.approx(0.25, abs=0.03)


def test_a_finished_expert_is_kept_on_resume_and_never_overwritten_in_silence(tmp_path: Path) -> None:
    work = make(tmp_path, stages={"pretrain": {"steps": 2, "evals": 1}})
    (folder,) = pretrain(work, "news")
    before = (folder / "adapter_model.safetensors").read_bytes()
    with pytest.raises(Fault, match="overwrite"):
        pretrain(work, "news")
    pretrain(work, "news", resume=True)
    assert (folder / "adapter_model.safetensors").read_bytes() == before


def test_a_shared_expert_learns_every_role_and_others_learn_what_it_leaves_over(tmp_path: Path) -> None:
    work = make(tmp_path, shared={"r": 4}, stages={"shared": {"steps": 40, "batch_size": 8, "lr": 0.03, "evals": 2}})
    with pytest.raises(Fault, match=r"the shared expert.*none.*moe pretrain --shared"):
        pretrain(work, "news")
    below = pretrain_shared(work)
    weights = (below / "adapter_model.safetensors").read_bytes()
    first, best = read_json(below / "metrics.json")["history"][0], read_json(below / "metrics.json")["best"]
    for name in work.run.domains:
        assert best[f"perplexity_{name}"] < 0.85 * first[f"perplexity_{name}"]
    parts = [best[f"perplexity_{name}"] for name in work.run.domains]
    assert min(parts) < best["perplexity"] < max(parts)

    (folder,) = pretrain(work, "news")
    metrics = read_json(folder / "metrics.json")
    start = metrics["history"][0]
    assert start["perplexity_news"] == pytest.approx(best["perplexity_news"], rel=1e-5)
    assert metrics["best"]["perplexity_news"] < start["perplexity_news"]
    assert (below / "adapter_model.safetensors").read_bytes() == weights
    card = read_expert(folder).card
    assert card is not None
    assert card.shared == read_expert(below).digest

    pretrain(work, "talk")
    model, _ = read_mixture(merge_experts(work))
    assert model.bank.shared_experts == ("shared",)
    with model.ablated(model.bank.routed_experts):
        alone = LMCorpora(work, model).packed_data(list(work.run.domains)).evaluate()
    assert alone == pytest.approx({name: best[name] for name in alone}, rel=1e-5)


def test_runs_without_a_shared_expert_have_none_to_pretrain(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"a shared expert.*shared\.r=12"):
        pretrain_shared(make(tmp_path))


def test_runs_that_cannot_pretrain_say_so_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"one of the roles news, talk.*'tlak'.*talk"):
        pretrain(make(tmp_path), "tlak")
    with pytest.raises(Fault, match=r"corpus for news.*no file named"):
        pretrain(make(tmp_path, domains={"news": {"corpus": []}}), "news")
    plain = parse_run(tiny_settings(tmp_path / "model", tmp_path / "data"), "test")
    with pytest.raises(Fault, match="language"):
        pretrain(Workspace(plain, tmp_path / "run"))


def test_a_domain_called_general_is_refused_in_a_language_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match=r"domains\.general"):
        make(tmp_path, domains={"general": {"corpus": ["general.txt"]}})


def test_an_encoder_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    work = make(tmp_path, "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(Fault, match="mask token"):
        pretrain(work, "news")
