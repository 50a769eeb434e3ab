"""Instruction tuning: a language model's mixture learns to answer the questions of its domains.

How a file's rows become questions is `moe.data.prompt_templates`'; the loop is every stage's.
"""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from experts.atomic_io import refuse_existing
from experts.errors import Fault
from moe.config.stages import INSTRUCT
from moe.console import info
from moe.data.lm_collator import InstructionCollator
from moe.data.prepare import without_progress_bars
from moe.evaluation.perplexity import evaluate_perplexities
from moe.inference.prompt_tokens import PromptEncoder
from moe.model.mixture import Mixture
from moe.runs.best import best_model
from moe.runs.selection_metric import PERPLEXITY
from moe.runs.workspace import Workspace
from moe.training.stage import TrainingData
from moe.training.steps import train_stage

_LEFT_OVER = ["id", "text", "label", "score", "lang", "line", "origin", "prompt", "answer", "choices"]


def instruct(work: Workspace, model: Path | None = None, overwrite: bool = False, resume: bool = False) -> Path:
    """Teach a mixture the run's questions, loss on the answers only → `moe-instruct/`.

    Args:
        model: the mixture to begin with; the run's best by default.

    Raises:
        Fault: when the run has no language model or no questions, the model cannot write, or a finished one would be
            overwritten.
    """
    work.begin()
    if work.run.language is None:
        raise Fault("a run over a language model", "a config without language", "add `language: {}` to the config")
    target = work.out / INSTRUCT.folder
    if resume and target.is_dir():
        info(f"{target.name}: finished before, kept")
        return target
    if not resume:
        refuse_existing(target, overwrite)
    train_stage(work, INSTRUCT, model or best_model(work.out), overwrite, resume, teach=question_data)
    return target


def question_data(work: Workspace, model: Mixture) -> TrainingData:
    """The run's questions as a lesson, judged by the perplexity of held-out answers.

    Raises:
        Fault: when there are none that fit, or the model does not write.
    """
    head = model.loaded_backbone.lm_head
    if head is None or head.kind != "causal":
        raise Fault("a mixture over a causal language model", "one that cannot write", "name a decoder as backbone")
    prompting = PromptEncoder(model.loaded_backbone.tokenizer, work.run.template)
    train, held_out = (_tokens(work, split, prompting) for split in ("train", "validation"))
    names = [domain.name for domain in model.domains]
    collate = InstructionCollator(model.loaded_backbone.tokenizer.pad_token_id, names)
    whose = np.asarray(held_out["domain"])
    parts = {str(name): held_out.select(np.flatnonzero(whose == name)) for name in dict.fromkeys(whose)}
    return TrainingData(train, collate, lambda: evaluate_perplexities(model, parts, collate), PERPLEXITY)


def _tokens(work: Workspace, split: str, prompting: PromptEncoder) -> Dataset:
    """Rows of a split as tokens, without those that are longer than `backbone.max_length`; how many is told."""
    rows, longest = work.questions(split), work.run.backbone.max_length

    def tokens(row: dict[str, Any]) -> dict[str, Any]:
        prompt = prompting.encode_prompt(row["prompt"])
        ids = [*prompt, *prompting.encode_answer(row["answer"])]
        return {"input_ids": ids, "begins": len(prompt), "lengths": [len(ids)]}

    with without_progress_bars():
        made = rows.map(tokens, remove_columns=_LEFT_OVER)
        fitting = made.filter(lambda row: len(row["input_ids"]) <= longest)
    if over := len(made) - len(fitting):
        info(f"{split}: {over} of {len(made)} questions are longer than backbone.max_length ({longest}), left out")
    if not len(fitting):
        raise Fault(
            f"{split} questions of at most {longest} tokens", "none", "raise backbone.max_length, or mend split"
        )
    return fitting
