"""A sequence classifier of transformers as a teacher, from a folder: safetensors only, without remote code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from experts.cards import ADAPTER_CONFIG, EXPERT_CARD
from experts.errors import Fault
from moe.checkpoints.file_names import CARD as MIXTURE_CARD
from moe.console import is_verbose
from moe.data.distilled.soft_labels import SoftLabels
from moe.data.distilled.teacher_settings import TeacherSettings
from moe.distill.request import (
    TaskRequest,
    Teacher,
    check_mapping,
    covers,
    fingerprint_of,
    label_matrix,
    no_scores,
    polarity_of,
    softmax,
    to_task_labels,
    uncovered_fault,
)
from moe.inference.batches import batch_by_tokens, chunk_size_for
from moe.inference.torch_predictor import token_budget
from moe.model.backbone import AUTO_LENGTH_LIMIT, loading_messages
from moe.model.backbone_files import check_json_files, weights_digest
from moe.model.backbone_ops import position_limit
from moe.model.device import choose_device, compute_dtype
from moe.profiling import is_out_of_memory, oom_guard

CONFIG_FILE = "config.json"
_OWN_FILES = (MIXTURE_CARD, EXPERT_CARD, ADAPTER_CONFIG)
_READ = (".json", ".txt", ".model", ".safetensors")
"""Endings of the files that decide the answers: config, tokenizer and weights."""


def is_transformers_folder(folder: Path) -> bool:
    """Whether a folder holds a model of transformers, rather than a mixture, an expert or a run of this toolkit."""
    return (folder / CONFIG_FILE).is_file() and not any((folder / name).is_file() for name in _OWN_FILES)


class TransformersTeacher(Teacher):
    """Answers with the probabilities of a sequence classifier; a regression head with one output gives scores only.

    Args:
        name: shown to users.
        fingerprint: see `Teacher`.
        model: in evaluation mode, on its device.
        tokenizer: its tokenizer.
        max_length: tokens at which a text is truncated.
        mapping: the model's labels → the task's.

    Raises:
        Fault: if the mapping has a label that the model lacks.
    """

    def __init__(
        self, name: str, fingerprint: str, model: Any, tokenizer: Any, max_length: int, mapping: Mapping[str, str]
    ) -> None:
        super().__init__(name, fingerprint)
        self._model, self._tokenizer, self._max_length, self._mapping = model, tokenizer, max_length, mapping
        names: Mapping[int, str] = model.config.id2label
        self.labels = tuple(names[index] for index in range(model.config.num_labels))
        check_mapping(mapping, self.labels, name)

    def answer(
        self, texts: Sequence[str], request: TaskRequest, targets: Sequence[str | None] | None = None
    ) -> SoftLabels:
        """Return soft labels of texts (N); see `Teacher.answer`."""
        if len(self.labels) == 1:
            return self._regression(texts, request)
        matrix = label_matrix(self.labels, request.labels, self._mapping)  # (L, K)
        if not covers(matrix):
            raise uncovered_fault(self.name, self.labels, request)
        probabilities = to_task_labels(softmax(self._logits(texts)), matrix)  # (N, K)
        scores = polarity_of(probabilities, request.labels) if request.scored else no_scores(len(texts))
        return SoftLabels(probabilities, scores)

    def _regression(self, texts: Sequence[str], request: TaskRequest) -> SoftLabels:
        if not request.scored:
            expected = f"a teacher for the labels {', '.join(request.labels)} of task {request.task}"
            head = f"a regression head with one output in {self.name}, which gives scores only"
            raise Fault(expected, head, "use a classifier, or this teacher for a task with scores")
        outputs = self._logits(texts)[:, 0]  # (N,)
        scores = np.where(np.isfinite(outputs), outputs.clip(-1, 1), np.nan).astype(np.float32)
        return SoftLabels(np.full((len(texts), len(request.labels)), np.nan, dtype=np.float32), scores)

    def _logits(self, texts: Sequence[str]) -> np.ndarray:
        """Logits of texts (N, L), in batches of similar length."""
        logits = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        budget = token_budget(self._model.device, self._model.dtype)
        size = chunk_size_for(budget)
        with oom_guard("lower max_length of the teacher, or use a smaller teacher"), torch.inference_mode():
            for start in range(0, len(texts), size):
                ids = self._tokenizer(list(texts[start : start + size]), truncation=True, max_length=self._max_length)[
                    "input_ids"
                ]
                for batch in batch_by_tokens([len(tokens) for tokens in ids], budget):
                    logits[start + batch] = self._forward([ids[i] for i in batch])
        return logits

    def _forward(self, ids: Sequence[list[int]]) -> np.ndarray:
        """Logits (B, L) of token ids."""
        length = max(map(len, ids))
        padding = self._tokenizer.pad_token_id
        padded = torch.tensor([[*tokens, *[padding] * (length - len(tokens))] for tokens in ids])  # (B, T)
        mask = torch.tensor([[1] * len(tokens) + [0] * (length - len(tokens)) for tokens in ids])  # (B, T)
        device = self._model.device
        out = self._model(input_ids=padded.to(device), attention_mask=mask.to(device))
        logits: np.ndarray = out.logits.float().cpu().numpy()  # (B, L)
        return logits


def load_transformers_teacher(settings: TeacherSettings, folder: Path, device: str = "auto") -> TransformersTeacher:
    """Load a sequence classifier as a teacher, in the precision that is fast on its device.

    Args:
        settings: its label mapping and length; without one, texts are truncated at the model's limit, at most 512.
        folder: where it is.
        device: such as `cpu` or `cuda:1`; `auto` is the first GPU, else the CPU.

    Raises:
        Fault: if it is no classifier with one label a text, its weights are not safetensors or lack the head, or a
            setting does not fit it.
    """
    check_json_files(str(folder))
    target = choose_device(device)
    config = _from_pretrained(AutoConfig, settings, folder)
    if config.problem_type == "multi_label_classification":
        expected = f"a classifier of one label a text in {settings.model}"
        raise Fault(expected, "a multi-label one", "use another teacher")
    tokenizer = _from_pretrained(AutoTokenizer, settings, folder)
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token
    length = _length(settings, min(position_limit(config) or AUTO_LENGTH_LIMIT, tokenizer.model_max_length))
    with oom_guard("use a smaller teacher"), loading_messages(is_verbose()):
        model, info = _from_pretrained(
            AutoModelForSequenceClassification,
            settings,
            folder,
            use_safetensors=True,
            dtype=compute_dtype("auto", target),
            output_loading_info=True,
        )
        model.to(target).eval()
    if missing := sorted(info["missing_keys"]):
        raise Fault(
            f"the weights of a trained classifier in {settings.model}",
            f"no {missing[0]}",
            "use a model that was trained to classify",
        )
    model.config.pad_token_id = tokenizer.pad_token_id  # by which a decoder finds the last token
    files = sorted(path for path in folder.iterdir() if path.suffix in _READ and path.is_file())
    fingerprint = fingerprint_of(
        kind="transformers", files=weights_digest(tuple(files)), length=length, labels=settings.labels
    )
    return TransformersTeacher(settings.model, fingerprint, model, tokenizer, length, settings.labels)


def _length(settings: TeacherSettings, limit: int) -> int:
    if settings.max_length is not None and settings.max_length > limit:
        setting = f"max_length {settings.max_length}"
        raise Fault(f"a max_length of at most {limit} for the teacher {settings.model}", setting, "lower or remove it")
    return settings.max_length or min(limit, AUTO_LENGTH_LIMIT)


def _from_pretrained(kind: Any, settings: TeacherSettings, folder: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception as error:  # whatever the library raises about the model's files
        if is_out_of_memory(error):
            raise
        raise Fault(
            f"a sequence classifier of transformers with safetensors weights as teacher, {settings.model}",
            " ".join(str(error).split())[:200] or type(error).__name__,
            "use another model, or a revision of it that has safetensors",
        ) from error
