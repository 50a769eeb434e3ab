"""Conflicts of averages of the weights with the other settings of a run."""

from collections.abc import Iterator

from moe.config.stages import STAGES, StagesSettings


def average_conflicts(stages: StagesSettings) -> Iterator[str]:
    """Contradictions between averages of the weights and other settings, one sentence each."""
    for name in STAGES:
        if stages.shard and (average := getattr(stages, name).average) != "none":
            yield (
                f"stages.shard is true, but stages.{name}.average is {average}, which needs unsharded weights: "
                "set stages.shard to false"
            )
