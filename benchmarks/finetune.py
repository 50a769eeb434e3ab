"""Two comparators that are no expert: every weight of the backbone fine-tuned, and the frozen backbone with a head.

Used by `benchmarks/quality.py`; both read the same rows, batches, heads and figures as everything else.
"""

import copy
import math

import numpy as np
import torch
from datasets import Dataset
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
from moe.model.backbone import has_fast_bfloat16
from moe.model.backbone_ops import AttentionSwitch
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.objective import LossContext, Objective
from moe.training.stage import count_labels

NAME = "shared"


def plain(run: RunSettings) -> Mixture:
    """The backbone with fresh heads and an adapter that adds nothing and never learns."""
    model = build_expert_model(run, NAME, build_adapter, False, run.seed, always_on=True)
    model.bank.freeze()
    model.active_expert = NAME
    return model


def fine_tuned(work: Workspace, epochs: int, rate: float, evals: int = 4) -> tuple[Mixture, float]:
    """All weights but the embeddings' learn with the cosine schedule; the best validation macro-F1 is kept and told.

    Weights are fp32 and compute in bfloat16 where the machine is fast in it, as the experts' backbone is and does.
    """
    run, settings = work.run, work.run.stages.shared
    run = run.model_copy(update={"backbone": run.backbone.model_copy(update={"dtype": "float32"})})
    torch.manual_seed(run.seed)
    model = plain(run)
    train, held_out = work.rows("train"), work.rows("validation")
    learn = [p for n, p in model.backbone.named_parameters() if "lora_" not in n and "embeddings" not in n]
    for parameter in learn:
        parameter.requires_grad_()
    groups = [{"params": learn, "lr": rate}, {"params": list(model.heads.parameters()), "lr": settings.head_lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    domains = np.asarray(train.data.column("domain").combine_chunks().dictionary_encode().indices)
    order = DomainBatchSampler(domains, row_lengths(train), settings.batch_size, settings.sampling_temperature, run.seed)
    total = epochs * len(order)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(0.06 * total), total)
    names = [domain.name for domain in model.domains]
    collate = Collator(model.loaded_backbone.tokenizer, run.template, run.backbone.max_length, model.labels, names)
    loss = Objective(
        SHARED,
        run.losses,
        run.dao,
        model.labels,
        model.domain_expert_mask,
        run.seed,
        context=LossContext.of(model),
        counts=count_labels(train, model.labels),
    )
    attention, device = AttentionSwitch(model.backbone), torch.device("cpu")
    half = torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(device))
    best: tuple[float, dict[str, Tensor]] = (-1.0, {})
    step, every = 0, math.ceil(total / evals)
    with progress_bar("full fine-tuning", total, "step") as meter:
        for epoch in range(epochs):
            order.set_epoch(epoch)
            for rows in order:
                model.train()
                batch = collate([train[i] for i in rows])
                attention.select(batch["input_ids"].shape[1])
                with half:
                    lost = loss(model(batch["input_ids"], batch["attention_mask"]), batch)
                lost.backward()
                nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                step += 1
                meter.advance(1)
                if step % every == 0 or step == total:
                    attention.restore()
                    with half:
                        score = validate(model, held_out, run.template, run.backbone.max_length)["macro_f1"]
                    if score > best[0]:
                        best = score, copy.deepcopy(model.state_dict())
    attention.restore()
    model.load_state_dict(best[1])
    return model.eval(), best[0]


def frozen(work: Workspace) -> dict[str, tuple[list[str], list[str]]]:
    """True and called labels of the test rows, by task: logistic regression on the frozen backbone's pooled states."""
    model = plain(work.run)
    found = {}
    for task, labels in work.run.label_space().tasks.items():
        parts = [_labelled(work.rows(split), task) for split in ("train", "test")]
        (known, taught), (unseen, true) = [(_states(model, work, texts), marks) for texts, marks in parts]
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000, C=0.1)).fit(known, taught)
        found[task] = [labels[i] for i in true], [labels[int(i)] for i in fitted.predict(unseen)]
    return found


def _labelled(rows: Dataset, task: str) -> tuple[list[str], list[int]]:
    some = [row for row in rows if row["task"] == task and row["label"] >= 0]
    return [row["text"] for row in some], [row["label"] for row in some]


@torch.inference_mode()
def _states(model: Mixture, work: Workspace, texts: list[str]) -> np.ndarray:
    """Pooled states (N, D) of texts."""
    model.eval()
    tokenizer, settings = model.loaded_backbone.tokenizer, work.run.backbone
    order = np.argsort([len(text) for text in texts], kind="stable")
    parts = []
    for start in range(0, len(order), 32):
        some = [texts[i] for i in order[start : start + 32]]
        parts.append(model(*tokenize(some, tokenizer, work.run.template, settings.max_length)).pooled.numpy())
    return np.concatenate(parts)[np.argsort(order)]  # (N, D)
