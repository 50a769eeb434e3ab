"""Runs over a tiny language model: synthetic corpora of three roles, and questions of two."""

import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
from conftest import (
    BAD,
    FAMILIES,
    FLAT,
    GOOD,
    LABELS,
    NOUNS,
    made_up_rows,
    merged_settings,
    tiny_settings,
    tiny_tokenizer,
    write_csv,
)
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from moe.config.run import parse_run
from moe.runs.workspace import Workspace
from moe.training.language.instruct import instruct
from moe.training.language.pretrain import pretrain
from moe.training.steps import merge_experts

LABEL_WORDS = (BAD[0], FLAT[0], GOOD[0])
"""Names of the labels that are single words of the tokenizer."""
TONE_TASK = {"labels": list(LABEL_WORDS), "label_map": dict(zip(LABELS, LABEL_WORDS, strict=True)), "ask": "{text}"}
FILLER_WORDS = ("the", "today", "again", "and", "of", "with")


def write_corpora(folder: Path, count: int = 160) -> None:
    """Write synthetic documents of each domain's words, in an order that can be learned, and of all words shuffled."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, nouns in NOUNS.items():
        rng = random.Random(name)
        lines = [
            " ".join(f"{rng.choice(FILLER_WORDS)} {noun}" for noun in nouns[rng.randrange(3) :]) for _ in range(count)
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    all_nouns = [noun for nouns in NOUNS.values() for noun in nouns]
    rng = random.Random(0)
    lines = [" ".join(rng.sample(all_nouns, 6)) for _ in range(count)]
    (folder / "general.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_language_model(folder: Path, family: str) -> Path:
    """Save a tiny language model of a family with random weights, and its tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=99, **FAMILIES[family])
    auto_class = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    auto_class.from_config(config).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = "[UNK]" if family == "bert" else None
    tokenizer.save_pretrained(folder)
    return folder


def make_lm_workspace(tmp_path: Path, family: str = "llama", **over: Any) -> Workspace:
    """Run with corpora of three domains, two of them in one role; `over` overrides settings."""
    if not (tmp_path / "model").is_dir():
        save_language_model(tmp_path / "model", family)
        write_corpora(tmp_path / "data")
    settings = tiny_settings(tmp_path / "model", tmp_path / "data")
    settings["domains"] = {
        "news": {"corpus": ["news.txt"]},
        "forum": {"corpus": ["forum.txt"], "role": "talk"},
        "macro": {"corpus": ["macro.txt"], "role": "talk"},
    }
    settings["language"] = {"general": ["general.txt"], "mix": 0.1}
    settings["stages"]["pretrain"] = {"steps": 40, "batch_size": 8, "lr": 0.03, "evals": 2, "sampling_temperature": 2}
    return Workspace(parse_run(merged_settings(settings, over), "test"), tmp_path / "run")


def make_question_workspace(folder: Path, **over: Any) -> Workspace:
    """Run of two roles, each with a corpus and a file of questions; `over` overrides settings."""
    names = ("news", "forum")
    for name in names:
        rows = made_up_rows(name, 120)
        rows[0]["text"] = rows[0]["text"] * 2  # a row that is longer than the others
        write_csv(folder / "data" / f"{name}-tone.csv", rows)
    stages = {
        "pretrain": {"steps": 2, "batch_size": 8, "evals": 1, "sampling_temperature": 2.0},
        "instruct": {"steps": 150, "batch_size": 16, "lr": 0.003, "router_lr": 0.01, "evals": 2},
    }
    raw = make_lm_workspace(folder, **over).run.model_dump(mode="json")
    raw["domains"] = {
        name: {"corpus": [f"{name}.txt"], "tasks": {f"{name}-tone": {"file": f"{name}-tone.csv"} | TONE_TASK}}
        for name in names
    }
    settings = merged_settings(merged_settings(raw, {"stages": stages}), over)
    return Workspace(parse_run(settings, "test"), folder / "run")


@cache
def instructed_workspace(base: Path) -> Workspace:
    """Run with questions, after instruction tuning; all test modules share it and add to its folder."""
    folder = base / "taught"
    save_language_model(folder / "model", "llama")
    write_corpora(folder / "data")
    work = make_question_workspace(folder)
    pretrain(work)
    merge_experts(work)
    instruct(work)
    return work
