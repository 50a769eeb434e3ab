"""Conflicts of training recipes, such as LoRA+, with the stages and the other settings of a run."""

from collections.abc import Iterator

from moe.config.stages import STAGES, StagesSettings


def recipe_conflicts(stages: StagesSettings) -> list[str]:
    """Contradictions between a run's training recipes and its other settings, one sentence each."""
    return [*_loraplus_conflicts(stages), *_average_conflicts(stages)]


def _loraplus_conflicts(stages: StagesSettings) -> Iterator[str]:
    for name, stage in STAGES.items():
        if (ratio := getattr(stages, name).loraplus_lr_ratio) != 1.0 and "experts" not in stage.trains:
            yield f"stages.{name}.loraplus_lr_ratio is {ratio:g}, but the stage trains no experts: set it to 1"


def _average_conflicts(stages: StagesSettings) -> Iterator[str]:
    for name in STAGES:
        if stages.shard and (average := getattr(stages, name).average) != "none":
            yield (
                f"stages.shard is true, but stages.{name}.average is {average}, which needs unsharded weights: "
                "set stages.shard to false"
            )
