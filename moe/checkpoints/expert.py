"""One expert by itself: the mixture with a constant route, fresh for training or read from its folder.

It is what a stage with a fixed route trains, and the baseline that a mixture is compared with.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from experts.adapter_bank import ExpertBank
from experts.domain import Domain
from experts.errors import Fault
from experts.expert_io import CONFIG, ExpertFolder, read_expert
from experts.lora import Adapter, LayerMap, LoraSettings
from moe.checkpoints.mixture import load_strictly, check_same_backbone
from moe.config.run import RunSettings, parse_run
from moe.config.yaml import read_yaml
from moe.model.backbone import Backbone, BackboneSettings, load_backbone
from moe.model.heads import Heads, NoHeads
from moe.model.mixture import Mixture

SHARED_NAME = "shared"
AdapterFactory = Callable[[LayerMap, LoraSettings, int], Adapter]


def build_expert_model(
    run: RunSettings,
    name: str,
    make: AdapterFactory,
    polarity: bool,
    seed: int,
    shared: ExpertFolder | None = None,
    always_on: bool = False,
) -> Mixture:
    """The mixture with one fresh expert and a constant route.

    Args:
        make: the adapter on a backbone's layers, by its settings and the trunk's depth.
        polarity: whether there are scores to learn from.
        seed: of the adapter's start; heads start from the run's seed, alike for all experts.
        shared: the shared expert to lie beside it, frozen; heads go on from its heads.
        always_on: whether the fresh expert is itself the shared one.
    """
    backbone = load_backbone(run.backbone, lm_head=run.language is not None)
    bank = ExpertBank(backbone.model, run.backbone.trunk_depth, backbone.lm_head is not None)
    settings = run.shared if always_on and run.shared else run.lora
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bank.add_adapter(name, _meant(make(bank.layer_map, settings, run.backbone.trunk_depth), backbone), always_on)
    labels = run.label_space()
    heads: Heads | NoHeads = NoHeads()
    if run.language is None:
        heads = Heads(backbone.model.config.hidden_size, labels.heads, run.heads, polarity, seed=run.seed)
    if shared:
        assert shared.card is not None
        bank.add_adapter(shared.name, Adapter(shared.peft_config, shared.card.layers), always_on=True)
        bank.load_adapter(shared.name, shared.weights)
        start = heads.state_dict()
        heads.load_state_dict({key: shared.heads.get(key, tensor) for key, tensor in start.items()})
    bank.set_dropout(settings.dropout)
    domains = [Domain(one.name, one.tasks, one.role, 1, (name,)) for one in run.domain_list()]
    return _placed(Mixture(backbone, bank, None, heads, domains, labels, run.backbone.pooling), name)


def _meant(adapter: Adapter, backbone: Backbone) -> Adapter:
    """PEFT is told which model the adapter is for."""
    if backbone.lm_head is None or backbone.lm_head.kind == "masked":
        return adapter
    return replace(adapter, peft_config=adapter.peft_config | {"task_type": "CAUSAL_LM"})


def _placed(model: Mixture, name: str) -> Mixture:
    model.active_expert = name
    device = model.backbone.device
    model.heads.to(device)
    model.special_token_ids, model.domain_expert_mask = model.special_token_ids.to(device), model.domain_expert_mask.to(device)
    return model


def load_single_expert(
    folder: Path, change: Callable[[BackboneSettings], BackboneSettings] = lambda settings: settings
) -> tuple[Mixture, RunSettings]:
    """One expert's folder as a model that answers, on top of its shared expert where it has one.

    Args:
        change: other precision or length than it was trained with.

    Raises:
        Fault: when the folder is broken, a plain PEFT adapter without heads, or made for another backbone.
    """
    expert = read_expert(folder)
    if expert.card is None:
        raise Fault(f"an expert with heads at {folder}", "a plain PEFT adapter", "merge it into a mixture first")
    run = _run_of(folder)
    run = run.model_copy(update={"backbone": change(run.backbone)})
    shared = read_expert(folder.parent / SHARED_NAME) if expert.card.shared else None
    if shared and shared.digest != expert.card.shared:
        raise Fault(
            f"the shared expert {str(expert.card.shared)[:12]}… at {shared.path}",
            f"{shared.digest[:12]}…",
            "put the one that it was trained with beside it",
        )
    card, known = expert.card, Adapter(expert.peft_config, expert.card.layers)
    model = build_expert_model(run, card.name, lambda *_: known, card.polarity, card.seed, shared, card.always_on)
    check_same_backbone(expert.card.backbone, model.loaded_backbone.id, str(folder))
    model.bank.load_adapter(expert.name, expert.weights)
    load_strictly(model.heads, expert.heads, folder)
    return model.eval(), run


def read_backbone_settings(folder: Path) -> BackboneSettings:
    """How the backbone of one expert's folder is loaded.

    Raises:
        Fault: when its config is broken.
    """
    return _run_of(folder).backbone


def _run_of(folder: Path) -> RunSettings:
    return parse_run(read_yaml(folder / CONFIG), str(folder / CONFIG))
