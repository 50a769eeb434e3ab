"""Merged heads: each label starts from the trained head of its own kind."""

from pathlib import Path

import torch

from experts.domain import Domain, LabelSpace, head_name
from moe.merging.head_init import TrainedHeads, init_heads
from moe.model.heads import Heads, HeadSettings, head_key

LABELS = ("a", "b")


def test_head_of_another_kind_with_the_same_labels_is_not_copied() -> None:
    domains = [Domain("news", {"tone": LABELS, "topics": LABELS}, kinds={"topics": "multi_label"})]
    space = LabelSpace.from_domains(domains)
    trained, fresh = (Heads(4, space.heads, HeadSettings(), polarity=False, seed=seed) for seed in (1, 2))
    source = TrainedHeads(Path("x"), trained.state_dict(), space.heads, space.tasks, space.kinds)
    init_heads(fresh, {"": [source]}, space)
    for kind in ("classes", "multi_label"):
        key = f"classes.{head_key(head_name(LABELS, kind))}.1.weight"
        torch.testing.assert_close(fresh.state_dict()[key], trained.state_dict()[key])
