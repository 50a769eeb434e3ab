"""Conflicts of training recipes, such as R-Drop, with the stages and the other settings of a run."""

from collections.abc import Iterator, Mapping

from experts.lora import LoraSettings
from moe.config.stages import STAGES, LossSettings, StagesSettings


def recipe_conflicts(
    stages: StagesSettings,
    losses: LossSettings,
    adapters: Mapping[str, LoraSettings],
    dropouts: Mapping[str, float],
    language: bool,
) -> list[str]:
    """Contradictions between a run's training recipes and its other settings, one sentence each.

    Args:
        adapters: settings of the experts, by key of the config.
        dropouts: probability of the other dropout on the path to the predictions, by key.
        language: whether the run trains a language model.
    """
    return [
        *_average_conflicts(stages),
        *_rdrop_conflicts(losses.rdrop, adapters, dropouts, language),
    ]


def _average_conflicts(stages: StagesSettings) -> Iterator[str]:
    for name in STAGES:
        if stages.shard and (average := getattr(stages, name).average) != "none":
            yield (
                f"stages.shard is true, but stages.{name}.average is {average}, which needs unsharded weights: "
                "set stages.shard to false"
            )


def _rdrop_conflicts(
    weight: float, adapters: Mapping[str, LoraSettings], dropouts: Mapping[str, float], language: bool
) -> Iterator[str]:
    if not weight:
        return
    if language:
        yield f"losses.rdrop is {weight:g}, but it compares predictions of classes, not of words: set it to 0"
    elif not any(dropouts.values()) and not any(its.dropout for its in adapters.values()):
        yield (
            f"losses.rdrop is {weight:g}, but without dropout both passes predict the same: set one of "
            f"{', '.join(f'{key}.dropout' for key in (*adapters, *dropouts))} above 0, or losses.rdrop to 0"
        )
