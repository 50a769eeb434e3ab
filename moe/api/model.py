"""FinMoEModel: a trained model in Python, loaded, used, changed and published as Hugging Face users expect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from experts.errors import Fault
from moe.api.prediction import TextPredictions
from moe.config.overrides import override_strings
from moe.inference.load import LoadOptions, Runtime, load, load_torch
from moe.inference.predictor import Predictor
from moe.model.mode import RoutingChoice
from moe.runs.model_ref import ModelRef, resolve

if TYPE_CHECKING:
    import torch
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedModel

    from moe.inference.torch_predictor import TorchPredictor


@dataclass(frozen=True)
class _ModelFolder:
    """Where a changed model is written; a temporary folder is deleted with the model."""

    path: Path
    scratch: TemporaryDirectory[str] | None = None


class FinMoEModel(TextPredictions):
    """A trained mixture, or a single expert, that classifies texts.

    Use `FinMoEModel.from_pretrained` to create one. If the model has several tasks, each text is classified for the
    first task of its most probable domain, unless `domain` or `task` is given.

    Args:
        predictor: the loaded model.
        folder: the folder that it was loaded from.
        overrides: of its backbone settings, as `KEY=VALUE`.

    Attributes:
        classes_: all labels of all tasks, (K,), in the order of the columns of `predict_proba`.

    Examples:
        The mixture that the package ships:

        >>> from moe import FinMoEModel
        >>> model = FinMoEModel.from_pretrained("ready")
        >>> texts = ["Quarterly profit fell and the company cut its dividend.", "$TSLA to the moon, loaded up on calls"]
        >>> model.predict(texts)
        ['negative', 'positive']
        >>> model.predict_proba(texts).round(2)
        array([[0.99, 0.01, 0.01],
               [0.03, 0.03, 0.93]])
        >>> model.classes_
        array(['negative', 'neutral', 'positive'], dtype='<U8')
        >>> model.experts
        ('news', 'forum')
        >>> model.get_routing_weights(texts).argmax(1)
        array([0, 1])
    """

    def __init__(self, predictor: Predictor, folder: Path, overrides: Sequence[str] = ()) -> None:
        super().__init__(predictor, folder)
        self._overrides = tuple(overrides)
        self._scratch: TemporaryDirectory[str] | None = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        device_map: "str | torch.device | None" = None,
        dtype: "str | torch.dtype | None" = None,
        overrides: Mapping[str, Any] | None = None,
        routing: RoutingChoice = "auto",
        windows: bool = False,
        batch_tokens: int | None = None,
        abstain: float | None = None,
        label_sets: bool = False,
        runtime: Runtime = "auto",
    ) -> Self:
        """Load a model from a folder or the Hugging Face Hub.

        Args:
            name_or_path: folder of a mixture, of a single expert, or of a run, whose best mixture is loaded; `ready`
                for the mixture that the package ships; or the name of a model on the Hub, such as `owner/name`.
            revision: branch, tag or commit on the Hub; the main branch by default.
            token: access token for the Hub, or whether to use the stored one.
            cache_dir: folder for files from the Hub; the Hub's own cache by default.
            device_map: device of the model, such as `cpu` or `cuda:1`; by default the first GPU, else the CPU.
            dtype: precision of the frozen backbone, `float32`, `bfloat16` or `auto`; by default that of the model.
            overrides: settings that replace the model's own, of its backbone only:
                `{"backbone": {"quantization": "int8", "max_length": 256}}`.
            routing: `soft` mixes the experts by their routing weights, `pruned` drops small weights, `hard` uses the
                most probable expert only; `auto` is what was chosen when the mixture was saved.
            windows: average a text that is longer than the model's maximal length over windows, instead of truncating
                it.
            batch_tokens: maximal number of tokens in a batch, padding included; by default chosen for the device and
                the precision.
            abstain: target accuracy, between 0 and 1. Predictions below the confidence above which validation rows
                guarantee it, at the level of the calibration, get no label. The model has to be calibrated
                (`moe calibrate`).
            label_sets: give each answer of `answers` its conformal set of labels, `label_set`. The model has
                to be calibrated with `moe calibrate --conformal`.
            runtime: `onnx` predicts with the model's graph; `torch` with PyTorch; `auto` uses the graph if it is
                current, nothing is overridden and there is no GPU.

        Returns:
            the loaded model.

        Raises:
            Fault: if there is no model at `name_or_path`, its files are broken, or an option does not fit the model.
        """
        sets = [*override_strings(overrides or {})]
        if dtype is not None:
            sets.append(f"backbone.dtype={str(dtype).removeprefix('torch.')}")
        if device_map is not None:
            sets.append(f"backbone.device={device_map}")
        return cls.load(
            resolve(name_or_path, revision=revision, token=token, cache_dir=cache_dir),
            routing=routing,
            windows=windows,
            batch_tokens=batch_tokens,
            abstain=abstain,
            label_sets=label_sets,
            sets=sets,
            runtime=runtime,
        )

    @classmethod
    def load(
        cls,
        path: str | Path | ModelRef,
        *,
        routing: RoutingChoice = "auto",
        windows: bool = False,
        batch_tokens: int | None = None,
        abstain: float | None = None,
        label_sets: bool = False,
        sets: Sequence[str] = (),
        runtime: Runtime = "auto",
    ) -> Self:
        """Load a model from its folder, as `from_pretrained` does.

        Args:
            path: folder of a mixture, of a single expert, or of a run, whose best mixture is loaded; or `ready`.
            routing: see `from_pretrained`.
            windows: see `from_pretrained`.
            batch_tokens: see `from_pretrained`.
            abstain: see `from_pretrained`.
            label_sets: see `from_pretrained`.
            sets: overrides of the model's backbone settings as on the command line, such as
                `backbone.dtype=bfloat16`.
            runtime: see `from_pretrained`.

        Returns:
            the loaded model.

        Raises:
            Fault: as `from_pretrained`.
        """
        ref = resolve(path)
        options = LoadOptions(
            sets=tuple(sets),
            routing=routing,
            windows=windows,
            batch_tokens=batch_tokens,
            abstain=abstain,
            label_sets=label_sets,
            runtime=runtime,
        )
        return cls(load(ref, options), ref.folder, options.sets)

    def save_pretrained(self, folder: str | Path, *, license: str | None = None, overwrite: bool = False) -> Path:
        """Write a mixture to a folder that `from_pretrained`, the commands and transformers' pipeline read.

        The folder holds the experts, the router, the heads, a model card and the tokenizer; no weight of the backbone.

        Args:
            folder: the folder to write.
            license: the Hub's identifier of the license, such as `apache-2.0`; none by default.
            overwrite: replace an existing folder.

        Returns:
            the folder.

        Raises:
            Fault: if this is a single expert, the folder exists and `overwrite` is false, or it cannot be written.
        """
        from moe.export.hub import write_hub_folder

        write_hub_folder(Path(folder), self.folder, license, overwrite)
        return Path(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a FinMoE mixture",
        license: str | None = None,
    ) -> "CommitInfo":
        """Upload a mixture to the Hugging Face Hub, as `save_pretrained` writes it.

        Args:
            repo_id: `owner/name` of the repository, which is created if it does not exist.
            private: whether a new repository is private; by default as the owner's account is set.
            token: access token with the right to write, or whether to use the stored one.
            revision: branch to commit to; the main branch by default.
            commit_message: of the commit.
            license: the Hub's identifier of the license, such as `apache-2.0`; none by default.

        Returns:
            the commit, as `huggingface_hub` describes it.

        Raises:
            Fault: if this is a single expert.
            huggingface_hub.errors.HfHubHTTPError: if the Hub refuses the upload.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with TemporaryDirectory(prefix="finmoe-") as temporary:
            folder = self.save_pretrained(Path(temporary) / repo_id.rpartition("/")[2], license=license)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
            )

    @cached_property
    def torch_predictor(self) -> "TorchPredictor":
        """The model in PyTorch, which returns hidden states; loaded once if a graph predicts."""
        from moe.inference.torch_predictor import TorchPredictor

        if isinstance(self.predictor, TorchPredictor):
            return self.predictor.with_states()
        return load_torch(resolve(self.folder), LoadOptions(sets=self._overrides)).with_states()

    def add_expert(self, expert: str | Path, *, folder: str | Path | None = None, overwrite: bool = False) -> Self:
        """Return this mixture with one more expert, without training.

        The router gives the new expert a small weight, which does not depend on the text yet; `moe expert add` also
        adapts the router and its heads on rows of all domains.

        Args:
            expert: folder of a trained expert.
            folder: where the new mixture is written; by default a temporary folder, which is deleted with the model.
            overwrite: replace an existing folder.

        Returns:
            the new model; this one stays as it is.

        Raises:
            Fault: if the expert does not fit the mixture, or the folder exists.
        """
        from moe.membership.update import UpdateTarget, add

        out = self._new_folder("grown", folder)
        add(self.folder, Path(expert), None, UpdateTarget(out.path, overwrite))
        return self._reload(out)

    def remove_expert(self, name: str, *, folder: str | Path | None = None, overwrite: bool = False) -> Self:
        """Return this mixture without an expert: its column of the gates, its heads, and a domain left without any.

        Args:
            name: of a routed expert.
            folder: as for `add_expert`.
            overwrite: replace an existing folder.

        Returns:
            the new model; this one stays as it is.

        Raises:
            Fault: if there is no such expert, it is the last one, or the folder exists.
        """
        from moe.membership.update import UpdateTarget, remove

        out = self._new_folder("reduced", folder)
        remove(self.folder, name, UpdateTarget(out.path, overwrite))
        return self._reload(out)

    def _new_folder(self, name: str, folder: str | Path | None) -> "_ModelFolder":
        if folder is not None:
            return _ModelFolder(Path(folder))
        scratch = TemporaryDirectory(prefix="finmoe-", ignore_cleanup_errors=True)
        return _ModelFolder(Path(scratch.name) / name, scratch)

    def _reload(self, out: "_ModelFolder") -> Self:
        model = type(self).load(out.path, routing=self.routing, sets=self._overrides)
        model._scratch = out.scratch
        return model

    def merge_and_unload(self, expert: str | None = None, *, method: str | None = None) -> "PreTrainedModel":
        """Return the backbone with one expert, or several merged into one, and the shared ones in its weights.

        The heads stay outside: `moe export --to dense` writes them beside the weights.

        Args:
            expert: a routed expert; not needed if the model has only one.
            method: PEFT's name of a method that merges all routed experts into one, such as `cat` or `ties`; instead of
                `expert`.

        Returns:
            a plain transformers model; this one stays as it is.

        Raises:
            Fault: if neither or both are given for a mixture, or one of them is unknown.
        """
        from moe.export.merged_weights import merge_into_backbone
        from moe.export.selection import load_export_source, merged_expert_spec, single_expert_specs

        if expert is not None and method is not None:
            raise Fault("expert or method", "both", "give one of them")
        source = load_export_source(self.folder, self._overrides)
        if method is not None:
            return merge_into_backbone(source, merged_expert_spec(source.model, method, None))
        specs = single_expert_specs(source.model, () if expert is None else (expert,))
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise Fault("one expert to merge into the backbone", names, "name one, or give a method that merges all")
        return merge_into_backbone(source, specs[0])

    def print_trainable_parameters(self) -> None:
        """Print how many parameters experts, router and heads have, of all parameters with the backbone."""
        model = self.torch_predictor.model
        trained = sum(tensor.numel() for tensor in model.trained_state().values())
        total = (
            trained
            + sum(p.numel() for p in model.backbone.parameters())
            - sum(p.numel() for p in model.expert_parameters().values())
        )
        print(f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}")


MixtureClassifier = FinMoEModel
"""The name of `FinMoEModel` in earlier versions."""
