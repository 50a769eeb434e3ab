"""Two baselines without experts: full fine-tuning of the backbone, and a linear probe on the frozen backbone.

Used by `benchmarks/quality.py`, with the rows, batches, heads and metrics of the other models.
"""

import copy
import math

import numpy as np
import torch
from datasets import Dataset
from predictions import LabelPairs
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from experts.adapter import build_adapter
from moe.checkpoints.expert import build_expert_model
from moe.config.run import RunSettings
from moe.config.stages import SHARED
from moe.console import progress_bar
from moe.data.collator import Collator, tokenize
from moe.data.sampler import DomainBatchSampler, row_lengths
from moe.evaluation.evaluate import validate
from moe.model.backbone_ops import AttentionSwitch
from moe.model.device import has_fast_bfloat16
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.loss.global_batch import LossContext
from moe.training.loss.objective import Objective
from moe.training.stage import count_labels

NAME = "shared"


def build_frozen_model(run: RunSettings) -> Mixture:
    """Build the backbone with new heads and a frozen adapter whose output is zero."""
    model = build_expert_model(run, NAME, build_adapter, polarity=False, seed=run.seed, always_on=True)
    model.bank.freeze()
    return model


def fine_tune(work: Workspace, epochs: int, rate: float, evals: int = 4) -> tuple[Mixture, float]:
    """Train all weights except the embeddings with the cosine schedule.

    Weights are fp32; computations use bfloat16 where it is fast, as they do for the experts' backbone.

    Returns:
        the model with the best macro-F1 on validation rows, and that macro-F1.
    """
    run, settings = work.run, work.run.stages.shared
    run = run.model_copy(update={"backbone": run.backbone.model_copy(update={"dtype": "float32"})})
    torch.manual_seed(run.seed)
    model = build_frozen_model(run)
    train, validation = work.rows("train"), work.rows("validation")
    trainable = [p for n, p in model.backbone.named_parameters() if "lora_" not in n and "embeddings" not in n]
    for parameter in trainable:
        parameter.requires_grad_()
    groups = [{"params": trainable, "lr": rate}, {"params": list(model.heads.parameters()), "lr": settings.head_lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    sampler = DomainBatchSampler(
        np.asarray(train.data.column("domain").combine_chunks().dictionary_encode().indices),
        row_lengths(train),
        batch_size=settings.batch_size,
        temperature=settings.sampling_temperature,
        seed=run.seed,
    )
    total = epochs * len(sampler)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(0.06 * total), total)
    names = [domain.name for domain in model.domains]
    collate = Collator(model.loaded_backbone.tokenizer, run.template, run.backbone.resolved_length, model.labels, names)
    objective = Objective(
        SHARED,
        settings=run.losses,
        dao=run.dao,
        labels=model.labels,
        domain_expert_mask=model.domain_expert_mask,
        seed=run.seed,
        context=LossContext.of(model),
        counts=count_labels(train, model.labels),
    )
    attention, device = AttentionSwitch(model.backbone), model.backbone.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))
    best: tuple[float, dict[str, Tensor]] = (-1.0, {})
    step, interval = 0, math.ceil(total / evals)
    with progress_bar("full fine-tuning", total, "step") as meter:
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            for rows in sampler:
                model.train()
                batch = {name: values.to(device) for name, values in collate([train[i] for i in rows]).items()}
                attention.select(batch["input_ids"].shape[1])
                with autocast:
                    loss = objective(model(batch["input_ids"], batch["attention_mask"]), batch)
                loss.backward()
                nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                step += 1
                meter.advance(1)
                if step % interval == 0 or step == total:
                    attention.restore()
                    with autocast:
                        score = validate(model, validation, run.template, run.backbone.resolved_length)["macro_f1"]
                    if score > best[0]:
                        best = score, copy.deepcopy(model.state_dict())
    attention.restore()
    model.load_state_dict(best[1])
    return model.eval(), best[0]


def predict_linear_probe(work: Workspace) -> LabelPairs:
    """Predict the test rows by logistic regression on the frozen backbone's pooled states, task by task."""
    model = build_frozen_model(work.run)
    pairs: LabelPairs = {}
    for task, labels in work.run.label_space().tasks.items():
        train, test = (labelled_rows(work.rows(split), task) for split in ("train", "test"))
        train_states, test_states = (_pooled_states(model, work, texts) for texts, _ in (train, test))
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000, C=0.1)).fit(train_states, train[1])
        pairs[task] = [labels[i] for i in test[1]], [labels[int(i)] for i in probe.predict(test_states)]
    return pairs


def labelled_rows(rows: Dataset, task: str) -> tuple[list[str], list[int]]:
    """Return texts and label indices of a task's labelled rows."""
    labelled = [row for row in rows if row["task"] == task and row["label"] >= 0]
    return [row["text"] for row in labelled], [row["label"] for row in labelled]


@torch.inference_mode()
def _pooled_states(model: Mixture, work: Workspace, texts: list[str]) -> np.ndarray:
    """Return the pooled states of texts (N, D)."""
    model.eval()
    tokenizer, settings, device = model.loaded_backbone.tokenizer, work.run.backbone, model.backbone.device
    order = np.argsort([len(text) for text in texts], kind="stable")  # (N,)
    states = []
    for start in range(0, len(order), 32):
        batch = [texts[i] for i in order[start : start + 32]]
        ids, mask = tokenize(batch, tokenizer, work.run.template, settings.resolved_length)  # (B, T) each
        states.append(model(ids.to(device), mask.to(device)).pooled.cpu().numpy())
    return np.concatenate(states)[np.argsort(order)]  # (N, D)
