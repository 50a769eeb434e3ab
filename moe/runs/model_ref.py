"""Where a model is: a folder, a run, the ready mixture or the Hugging Face Hub; needs no torch.

Every command, the HTTP service and the Python API find their model with `resolve`. The ready mixture is a trained
mixture that the package ships.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from experts.atomic_io import restore_folder
from experts.cards import ADAPTER_CONFIG, EXPERT_CARD
from experts.errors import Fault
from experts.reading import FileRecords, access_fault, each_file_once, read_json, sha256_of
from moe.checkpoints.file_names import CARD as MIXTURE_CARD
from moe.checkpoints.file_names import README
from moe.config.files import RUNS, default_run_folder
from moe.console import info
from moe.runs.best import default_model, has_mixture

READY = "ready"
READY_FOLDER = Path(__file__).parent.parent / READY
READY_HASHES: dict[str, str] = {
    "manifest.json": "fb3e7671c830424ebcfe838851e212498c3ef28cb7057cb47b3b544e6b08205d",
    "calibration.json": "fd2d7234b82e7a97acbcea8385702f769ddd19fe60ddb0e134864b95619c586b",
    "drift.json": "6acdbadd94acf368a465b016f49d79bd6e3139c1163c1ec8bd0d6343416a9c02",
    "graph/graph.json": "59accdbd7bfe50c7bd171e21b4f4d7007a2a44788909d32617a05d65c00baf51",
}
"""SHA-256 of the files that hold the hashes of all others."""
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.ot", "*.gguf")
"""Weights that are not read, some of which could run code."""
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class ModelRef:
    """A model that was found, with its card; nothing is loaded and no hash is checked yet.

    Args:
        folder: of the mixture or the expert.
        kind: `mixture`, or `expert` for a single one.
        source: how it was found: as the ready mixture, by its folder, as the default model of a run, or on the Hub.
        records: files that were read on the way, which the first `load` does not read again.
    """

    folder: Path
    kind: Literal["mixture", "expert"]
    source: Literal["ready", "folder", "run", "hub"] = "folder"
    records: FileRecords = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def card(self) -> Mapping[str, Any]:
        """The content of its card, read once and not validated.

        Raises:
            Fault: if the card is missing, unreadable or no JSON object.
        """
        path = self.folder / (EXPERT_CARD if self.kind == "expert" else MIXTURE_CARD)
        with each_file_once(self.records):
            content = read_json(path)
        if not isinstance(content, dict):
            raise Fault(f"a card at {path}", f"a {type(content).__name__}", "write the folder again")
        return content

    @property
    def language(self) -> bool:
        """Whether it is a language model rather than a classifier, as its card says.

        Raises:
            Fault: if the card is missing or unreadable.
        """
        return self.card.get("language") is True


def resolve(
    model: "str | Path | ModelRef | None" = None,
    *,
    config: Path | None = None,
    run: Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> ModelRef:
    """Find a model: no training config is parsed, and no weight is read.

    Args:
        model: `ready`, the folder of a mixture or an expert, a run folder (its instruction-tuned mixture, else its
            best one), or `owner/name` on the Hub, which is downloaded unless it is cached. A model that was found
            already is returned as it is. None is the model of `run`, else of the run of `config`; if neither is given
            and the run of the demo has no mixture, the ready one. What None stands for is stated on stderr.
        config: config of the run.
        run: folder of the run; by default `runs/NAME` for a config NAME.yaml.
        revision: branch, tag or commit on the Hub; the main branch by default.
        token: access token for the Hub, or whether to use the stored one.
        cache_dir: folder for files from the Hub; the Hub's own cache by default.

    Raises:
        Fault: if there is no such folder or no model in it, the ready mixture is not that of this release, a model is
            not on the Hub, or a revision is given for a folder.
    """
    if isinstance(model, ModelRef):
        return model
    if model is None:
        return _default_of_run(config, run)
    path = Path(model)
    if names_ready(model):
        return _ready()
    if is_hub_name(str(model), revision):
        return _in_folder(download(str(model), revision, token, cache_dir), "hub")
    if revision is not None:
        raise Fault("a revision of a model on the Hub", f"the folder {path}", "remove revision, or name a model")
    return _in_folder(path, "folder")


def names_ready(model: Path | str) -> bool:
    """Whether this names the shipped mixture: the name `ready`, unless a folder has it."""
    return str(model) == READY and not Path(model).is_dir()


def ready_folder(records: FileRecords | None = None) -> Path:
    """Return the folder of the ready mixture.

    Args:
        records: the files that are read are added.

    Raises:
        Fault: if it is missing, or a file is not that of this release.
    """
    with each_file_once({} if records is None else records):
        for name, digest in READY_HASHES.items():
            path = READY_FOLDER / name
            if not path.is_file():
                remedy = "install finmoe again, or use a model of your own"
                raise Fault(f"the ready mixture at {READY_FOLDER}, with {name}", "no such file", remedy)
            if (actual := sha256_of(path)) != digest:
                raise Fault(
                    f"the ready mixture of this release, with {name} of sha256 {digest[:12]}…",
                    f"a changed file at {path}, {actual[:12]}…",
                    "install finmoe again; copy the folder elsewhere to change a model",
                )
    return READY_FOLDER


def _ready() -> ModelRef:
    records: FileRecords = {}
    return ModelRef(ready_folder(records), "mixture", "ready", records)


def _default_of_run(config: Path | None, run: Path | None) -> ModelRef:
    folder = run or default_run_folder(config)
    if config is None and run is None and not has_mixture(folder):
        info(f"no mixture in {folder}, so the ready mixture answers; its model card is {READY_FOLDER / README}")
        return _ready()
    model = default_model(folder)
    info(f"model: {model}")
    return ModelRef(model, "mixture", "run")


def _in_folder(path: Path, source: Literal["folder", "hub"]) -> ModelRef:
    """The model in a folder, or the default model of a run's folder."""
    restore_folder(path)
    try:
        if not path.is_dir():
            expected = f"the folder of a model or a run at {path}"
            raise Fault(expected, "no such folder", "use a folder that moe has trained")
        if (path / EXPERT_CARD).is_file():
            return ModelRef(path, "expert", source)
        if (path / MIXTURE_CARD).is_file():
            return ModelRef(path, "mixture", source)
        if (path / ADAPTER_CONFIG).is_file():
            remedy = "merge it into a mixture first: moe merge"
            raise Fault(f"an expert with heads at {path}", "a plain PEFT adapter", remedy)
    except PermissionError as error:
        raise access_fault(error, path) from error
    return ModelRef(default_model(path), "mixture", "run")


def is_hub_name(name: str, revision: str | None = None) -> bool:
    """Whether a name is one on the Hub; without a revision, a name below `runs` or a folder that exists is a path."""
    if Path(name).exists() or not _HUB_NAME.fullmatch(name):
        return False
    parent = Path(name).parent
    return revision is not None or not (parent.is_dir() or parent == RUNS)


def download(
    name: str,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Return the folder of a model on the Hub, from its cache or downloaded, without weights other than safetensors.

    Raises:
        Fault: if there is no such model, or it is neither cached nor reachable.
    """
    from huggingface_hub import snapshot_download  # slow to import, and a folder does not need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name, revision=revision, token=token, cache_dir=cache_dir, ignore_patterns=list(_OTHER_WEIGHTS)
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Fault(
            f"a folder, or a model on the Hugging Face Hub, {name!r}",
            reason,
            "check the name and the revision, log in for a private model, or download it first",
        ) from error
