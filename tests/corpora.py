"""Runs over a tiny language model with its own head, on made-up corpora of three roles."""

import random
from pathlib import Path
from typing import Any

import torch
from conftest import FAMILIES, NOUNS, merged_settings, tiny_settings, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from moe.config import parse_run
from moe.workspace import Workspace

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
