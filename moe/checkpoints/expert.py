"""A single expert as a mixture with a constant route: with fresh weights for training, or loaded from its folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from experts.adapter_bank import ExpertBank
from experts.errors import Fault
from experts.expert_io import CONFIG, ExpertFolder, read_expert
from experts.lora import Adapter, LayerMap, LoraSettings
from experts.yaml_io import read_yaml
from moe.checkpoints.mixture import check_same_backbone, load_strictly, move_trained_parts
from moe.config.run import RunSettings, parse_run
from moe.config.stages import EXPERT
from moe.model.backbone import Backbone, BackboneSettings, load_backbone
from moe.model.backbone_pool import BackboneLoader
from moe.model.heads import Heads, NoHeads
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode

SHARED_NAME = "shared"
AdapterFactory = Callable[[LayerMap, LoraSettings, int], Adapter]


def build_expert_model(
    run: RunSettings,
    name: str,
    build_adapter: AdapterFactory,
    polarity: bool,
    seed: int,
    shared: ExpertFolder | None = None,
    always_on: bool = False,
    domain: str | None = None,
    load: BackboneLoader = load_backbone,
) -> Mixture:
    """Build the mixture with one fresh expert and a constant route.

    Args:
        build_adapter: builds the adapter from the backbone's layers, its settings and the trunk's depth.
        polarity: whether to add a polarity head, for rows with scores.
        seed: of the adapter's initial weights; heads are initialized from the run's seed, equally for all experts.
        shared: the shared expert to add, frozen; the heads start from its heads.
        always_on: whether the fresh expert is itself the shared one.
        domain: name of the domain that it is trained on; all domains of the run by default.
        load: loads the backbone.
    """
    backbone = load(run.backbone, lm_head=run.language is not None)
    bank = ExpertBank(
        backbone.model, run.backbone.trunk_depth, backbone.lm_head is not None, fold_limit=backbone.fold_limit
    )
    settings = run.shared if always_on and run.shared else run.lora
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = build_adapter(bank.layer_map, settings, run.backbone.trunk_depth)
        bank.add_adapter(name, _with_task_type(adapter, backbone), always_on=always_on)
    labels = run.label_space()
    heads: Heads | NoHeads = NoHeads()
    if run.language is None:
        heads = Heads(backbone.model.config.hidden_size, labels.heads, run.heads, polarity, seed=run.seed)
    if shared:
        assert shared.card is not None
        bank.add_adapter(shared.name, Adapter(shared.peft_config, shared.card.layers), always_on=True)
        bank.load_adapter(shared.name, shared.weights)
        fresh = heads.state_dict()
        heads.load_state_dict({key: shared.heads.get(key, tensor) for key, tensor in fresh.items()})
    bank.set_dropout(settings.dropout)
    domains = [replace(declared, experts=1, custom_expert_names=(name,)) for declared in run.domain_list()]
    trained = [declared for declared in domains if declared.name == domain]
    mode = RoutingMode(active_expert=name)
    model = Mixture(backbone, bank, None, heads, domains, labels, run.backbone.pooling, mode, trained or domains)
    move_trained_parts(model)
    return model


def _with_task_type(adapter: Adapter, backbone: Backbone) -> Adapter:
    """Return the adapter with the task type in its PEFT config, if it is for a causal language model."""
    if backbone.lm_head is None or backbone.lm_head.kind == "masked":
        return adapter
    return replace(adapter, peft_config=adapter.peft_config | {"task_type": "CAUSAL_LM"})


def load_single_expert(
    folder: Path,
    change: Callable[[BackboneSettings], BackboneSettings] = lambda settings: settings,
    load: BackboneLoader = load_backbone,
) -> tuple[Mixture, RunSettings]:
    """Load an expert's folder as a model that can predict, on top of its shared expert if it has one.

    Args:
        change: changes the backbone settings, for a precision or length other than in training.
        load: loads the backbone.

    Raises:
        Fault: if the folder is broken, a plain PEFT adapter without heads, or made for a different backbone.
    """
    expert = read_expert(folder)
    if expert.card is None:
        raise Fault(
            f"an expert with heads at {folder}", "a plain PEFT adapter", "merge it into a mixture first: moe merge"
        )
    run = _read_run_settings(folder)
    run = run.model_copy(update={"backbone": change(run.backbone)})
    shared = read_expert(_find_shared(folder)) if expert.card.shared else None
    if shared and shared.digest != expert.card.shared:
        raise Fault(
            f"the shared expert {str(expert.card.shared)[:12]}… at {shared.path}",
            f"{shared.digest[:12]}…",
            "copy the shared expert it was trained with to that folder",
        )
    card, adapter = expert.card, Adapter(expert.peft_config, expert.card.layers)
    model = build_expert_model(
        run,
        card.name,
        lambda *_: adapter,
        polarity=card.polarity,
        seed=card.seed,
        shared=shared,
        always_on=card.always_on,
        domain=card.domain,
        load=load,
    )
    check_same_backbone(card.backbone, model.loaded_backbone.id, str(folder))
    model.bank.load_adapter(expert.name, expert.weights)
    load_strictly(model.heads, expert.heads, folder)
    return model.eval(), run


def _find_shared(folder: Path) -> Path:
    """Folder of the shared expert of an expert: next to it, or for one outside `experts/`, in there."""
    inside = folder.parent / EXPERT.folder / SHARED_NAME
    return inside if inside.is_dir() else folder.parent / SHARED_NAME


def read_backbone_settings(folder: Path) -> BackboneSettings:
    """Read the backbone settings of an expert's folder.

    Raises:
        Fault: if its config is broken.
    """
    return _read_run_settings(folder).backbone


def _read_run_settings(folder: Path) -> RunSettings:
    return parse_run(read_yaml(folder / CONFIG), str(folder / CONFIG))
