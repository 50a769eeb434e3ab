"""Instruction tuning: train a language model's mixture to answer the questions of its domains."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from experts.errors import Fault
from moe.config.stages import INSTRUCT
from moe.console import info
from moe.data.lm_collator import InstructionCollator
from moe.data.prepare import without_progress_bars
from moe.evaluation.perplexity import evaluate_perplexities
from moe.inference.prompt_tokens import PromptEncoder
from moe.model.mixture import Mixture
from moe.runs.best import best_model
from moe.runs.finished import keeps_finished, mixture_differences
from moe.runs.locking import writes_run
from moe.runs.selection_metric import PERPLEXITY
from moe.runs.workspace import Workspace
from moe.training.stage import TrainingData
from moe.training.steps import train_stage

_UNUSED_COLUMNS = ["id", "text", "label", "score", "lang", "line", "target", "origin", "prompt", "answer", "choices"]


@writes_run
def instruct(work: Workspace, model: Path | None = None, overwrite: bool = False, resume: bool = False) -> Path:
    """Train a mixture on the run's questions, with the loss on the answers only, and write it to `moe-instruct/`.

    Args:
        model: the mixture to start from; the run's best by default.
        overwrite: train a finished one again; otherwise it is kept.
        resume: continue from its last checkpoint if it is under way.

    Returns:
        the folder of the trained mixture.

    Raises:
        Fault: if the run has no language model or no questions, the model cannot generate text, or the
            finished mixture has other settings or started from another one.
    """
    work.begin()
    if work.run.language is None:
        raise Fault("a run over a language model", "a config without language", "add `language: {}` to the config")
    target = work.out / INSTRUCT.folder
    before = model or best_model(work.out)
    if before.resolve() == target.resolve():
        raise Fault(
            f"a mixture to start from other than {target}, which is written", str(before), "give the mixture before it"
        )
    differences = partial(mixture_differences, work, INSTRUCT, target, before)
    if not keeps_finished(work, target, differences, overwrite=overwrite, resume=resume):
        train_stage(work, INSTRUCT, before, overwrite=True, resume=resume, load_data=question_data)
    return target


def question_data(work: Workspace, model: Mixture) -> TrainingData:
    """The run's questions as training data, evaluated by the perplexity of held-out answers.

    Raises:
        Fault: if no question is short enough, or the model cannot generate text.
    """
    head = model.loaded_backbone.lm_head
    if head is None or head.kind != "causal":
        raise Fault("a mixture over a causal language model", "no causal head", "use a decoder as backbone")
    encoder = PromptEncoder(model.loaded_backbone.tokenizer, work.run.template)
    train, held_out = (_tokenize_questions(work, split, encoder) for split in ("train", "validation"))
    names = [domain.name for domain in model.domains]
    collate = InstructionCollator(model.loaded_backbone.tokenizer.pad_token_id, names)
    domains = np.asarray(held_out["domain"])
    by_domain = {str(name): held_out.select(np.flatnonzero(domains == name)) for name in dict.fromkeys(domains)}

    def evaluate(held_out: Mapping[str, Dataset]) -> dict[str, float]:
        return evaluate_perplexities(model, held_out, collate)

    return TrainingData(train, collate, by_domain, evaluate, PERPLEXITY)


def _tokenize_questions(work: Workspace, split: str, encoder: PromptEncoder) -> Dataset:
    """Tokenized rows of a split, without those longer than `backbone.max_length`, whose number is reported."""
    rows, max_length = work.questions(split), work.run.backbone.resolved_length

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        prompt = encoder.encode_prompt(row["prompt"])
        ids = [*prompt, *encoder.encode_answer(row["answer"])]
        return {"input_ids": ids, "begins": len(prompt), "lengths": [len(ids)]}

    with without_progress_bars():
        every = rows.map(tokenize, remove_columns=_UNUSED_COLUMNS, load_from_cache_file=False)
        fitting = every.filter(lambda row: len(row["input_ids"]) <= max_length, load_from_cache_file=False)
    if skipped := len(every) - len(fitting):
        info(f"{split}: skipped {skipped} of {len(every)} questions, longer than backbone.max_length ({max_length})")
    if not len(fitting):
        raise Fault(
            f"{split} questions of at most {max_length} tokens", "none", "raise backbone.max_length, or fix the split"
        )
    return fitting
