"""Runs over a tiny language model with its own head, on made-up corpora of three roles, and on questions of two."""

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
from moe.training.instruct import instruct
from moe.training.pretrain import pretrain
from moe.training.steps import merge_experts

SPOKEN = (BAD[0], FLAT[0], GOOD[0])
"""Labels as words that the tokenizer knows."""
TONE = {"labels": list(SPOKEN), "label_map": dict(zip(LABELS, SPOKEN, strict=True)), "ask": "{text}"}
FILL = ("the", "today", "again", "and", "of", "with")


def write_corpora(folder: Path, count: int = 160) -> None:
    """Made-up documents of each domain's own words, in an order that can be learned."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, nouns in NOUNS.items():
        source = random.Random(name)
        lines = [
            " ".join(f"{source.choice(FILL)} {noun}" for noun in nouns[source.randrange(3) :]) for _ in range(count)
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    everything = [noun for nouns in NOUNS.values() for noun in nouns]
    mixed = random.Random(0)
    lines = [" ".join(mixed.sample(everything, 6)) for _ in range(count)]
    (folder / "general.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_model(folder: Path, family: str) -> Path:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=99, **FAMILIES[family])
    kind = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = "[UNK]" if family == "bert" else None
    tokenizer.save_pretrained(folder)
    return folder


def make(tmp_path: Path, family: str = "llama", **over: Any) -> Workspace:
    if not (tmp_path / "model").is_dir():
        save_model(tmp_path / "model", family)
        write_corpora(tmp_path / "data")
    settings = tiny_settings(tmp_path / "model", tmp_path / "data")
    settings["domains"] = {
        "news": {"corpus": ["news.txt"]},
        "forum": {"corpus": ["forum.txt"], "role": "talk"},
        "macro": {"corpus": ["macro.txt"], "role": "talk"},
    }
    settings["language"] = {"general": ["general.txt"], "mix": 0.1}
    settings["stages"]["pretrain"] = {"steps": 40, "batch_size": 8, "lr": 0.03, "evals": 2}
    return Workspace(parse_run(merged_settings(settings, over), "test"), tmp_path / "run")


def asking(place: Path, **over: Any) -> Workspace:
    """Two roles, each with a corpus and a question of its own file."""
    names = ("news", "forum")
    for name in names:
        rows = made_up_rows(name, 120)
        rows[0]["text"] = rows[0]["text"] * 2  # one that is longer than the others
        write_csv(place / "data" / f"{name}-tone.csv", rows)
    stages = {
        "pretrain": {"steps": 2, "batch_size": 8, "evals": 1},
        "instruct": {"steps": 150, "batch_size": 16, "lr": 0.003, "router_lr": 0.01, "evals": 2},
    }
    raw = make(place, **over).run.model_dump(mode="json")
    raw["domains"] = {
        name: {"corpus": [f"{name}.txt"], "tasks": {f"{name}-tone": {"file": f"{name}-tone.csv"} | TONE}}
        for name in names
    }
    settings = merged_settings(merged_settings(raw, {"stages": stages}), over)
    return Workspace(parse_run(settings, "test"), place / "run")


@cache
def taught_below(base: Path) -> Workspace:
    """Such a run, whose team is merged and was taught its questions; one for all modules, which add to its folder."""
    place = base / "taught"
    save_model(place / "model", "llama")
    write_corpora(place / "data")
    work = asking(place)
    pretrain(work)
    merge_experts(work)
    instruct(work)
    return work
