"""Mixtures in transformers' Auto classes; importing this module registers them.

Afterwards `transformers.pipeline("text-classification", model=FOLDER)` works on a folder of
`FinMoEModel.save_pretrained`, without remote code.
"""

from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from experts.errors import Fault
from moe.api.prediction import stack_probabilities
from moe.export.hub import MODEL_TYPE, write_hub_folder
from moe.inference.load import LoadOptions, load_torch
from moe.inference.torch_predictor import TorchPredictor
from moe.inference.windows import scores_of_windows
from moe.kinds.registry import task_kind
from moe.runs.model_ref import resolve

SMALLEST = 1e-30
"""Stands for probability 0, of labels of other tasks, whose logarithm must be finite."""


class FinMoEConfig(PretrainedConfig):
    """Config of a mixture for transformers; the model itself is described by the other files of its folder."""

    model_type = MODEL_TYPE


class FinMoEForSequenceClassification(PreTrainedModel):
    """A mixture as a transformers model for inference: its logits are the logarithms of calibrated probabilities.

    Args:
        config: with `id2label`, the labels of all tasks.
        predictor: the loaded mixture.
        folder: the folder that it was loaded from.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from transformers import pipeline
        >>> from moe import FinMoEForSequenceClassification, FinMoEModel
        >>> with TemporaryDirectory() as temporary:
        ...     folder = FinMoEModel.from_pretrained("ready").save_pretrained(temporary + "/sentiment")
        ...     classify = pipeline("text-classification", model=str(folder))
        >>> classify("Quarterly profit fell and the company cut its dividend.")[0]["label"]
        'negative'
    """

    config_class = FinMoEConfig
    main_input_name = "input_ids"

    def __init__(self, config: FinMoEConfig, predictor: TorchPredictor, folder: Path) -> None:
        super().__init__(config)
        self.model, self.predictor, self.folder = predictor.model, predictor, folder

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a mixture has no weights of its own layout to initialize
        cls, pretrained_model_name_or_path: str | Path, *_: Any, config: FinMoEConfig | None = None, **options: Any
    ) -> Self:
        """Load a mixture from a folder or the Hub.

        Args:
            pretrained_model_name_or_path: as for `FinMoEModel.from_pretrained`.
            config: read from the folder by default.
            options: `revision`, `token`, `cache_dir` and `dtype`; others are ignored.

        Returns:
            the model, in evaluation mode.

        Raises:
            Fault: if there is no mixture, its prompt template adds words to a text, a task has a score alone, or only
                some tasks are multi-label.
        """
        ref = resolve(
            pretrained_model_name_or_path,
            **{name: options.get(name) for name in ("revision", "token", "cache_dir")},
        )
        dtype = options.get("dtype")
        sets = () if dtype in (None, "auto") else (f"backbone.dtype={str(dtype).removeprefix('torch.')}",)
        predictor = load_torch(ref, LoadOptions(sets=sets))
        if predictor.template.strip() != "{text}":
            raise Fault(
                "a mixture whose prompt template is {text}, as transformers' pipeline tokenizes texts",
                repr(predictor.template),
                "use moe.pipeline, which applies the template",
            )
        if scores := predictor.spec.score_tasks:
            raise Fault(
                "tasks with labels, as a text classifier of transformers has",
                f"task {scores[0]}, which has a score alone",
                "use FinMoEModel.answers",
            )
        are_sets = {task_kind(task.kind).is_set for task in predictor.spec.tasks.values()}
        if len(are_sets) > 1:
            raise Fault(
                "tasks of one kind, as a transformers model has one function from logits to probabilities",
                "a mixture with multi-label tasks and others",
                "use moe.pipeline",
            )
        config = config or FinMoEConfig()
        if are_sets == {True}:
            config.problem_type = "multi_label_classification"
        config.id2label = dict(enumerate(predictor.spec.labels))
        config.label2id = {label: k for k, label in config.id2label.items()}
        return cls(config, predictor, ref.folder)  # whose model is in evaluation mode

    def save_pretrained(self, save_directory: str | PathLike[str], *_: Any, **__: Any) -> None:
        """Write the mixture to a folder, as `FinMoEModel.save_pretrained` does; options for weights are ignored.

        Raises:
            Fault: if the folder exists or cannot be written.
        """
        write_hub_folder(Path(save_directory), self.folder, None, overwrite=False)

    @torch.inference_mode()
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> SequenceClassifierOutput:
        """Classify token ids.

        Args:
            input_ids: (B, T); what is longer than the model's maximal length is truncated.
            attention_mask: (B, T), 0 at padding; none by default.

        Returns:
            `logits` (B, K), logarithms of the probabilities of the labels of all tasks, of multi-label tasks log-odds.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask  # (B, T)
        rows = [self._truncated(ids[real.bool()].tolist()) for ids, real in zip(input_ids, mask, strict=True)]
        index = np.arange(len(rows))  # (B,)
        outputs = self.predictor.forward(*self.predictor.pad(rows, index))
        scores = scores_of_windows(outputs, index, np.ones(len(rows), dtype=int), np.ones(len(rows)))
        predictions = self.predictor.to_predictions(scores, self.predictor.routed_tasks(scores))
        probabilities = stack_probabilities(predictions, self.predictor.spec.labels).clip(SMALLEST)  # (B, K)
        kind = task_kind(next(iter(self.predictor.spec.tasks.values())).kind)
        logits = torch.from_numpy(kind.logits(probabilities)).to(input_ids.device, torch.float32)  # (B, K)
        return SequenceClassifierOutput(logits=logits)

    def _truncated(self, ids: list[int]) -> list[int]:
        """Truncate one text as the tokenizer does: its last special tokens stay."""
        excess = len(ids) - self.predictor.max_length
        if excess <= 0:
            return ids
        special, end = set(self.predictor.tokenizer.all_special_ids), len(ids)
        while ids[end - 1] in special:
            end -= 1
        return ids[: end - excess] + ids[end:]


AutoConfig.register(MODEL_TYPE, FinMoEConfig, exist_ok=True)
AutoModelForSequenceClassification.register(FinMoEConfig, FinMoEForSequenceClassification, exist_ok=True)
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[MODEL_TYPE] = FinMoEForSequenceClassification.__name__
