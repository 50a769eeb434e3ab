"""Settings of the shared expert: a fresh one, or one that starts from a trained expert."""

from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from experts.lora import LoraSettings

FROM_ADAPTER = ("r", "alpha", "targets", "rslora")
"""Settings that the adapter of a trained expert determines."""


class SharedSettings(LoraSettings):
    """The always-active expert: LoRA hyperparameters of a fresh one, or the trained expert that it starts from."""

    init: str | None = Field(
        None,
        description="start from a trained expert, whose rank, alpha and layers it keeps: `ready`, the folder of an "
        "expert, of a mixture or of a PEFT adapter, or a hub id; null: fresh weights",
    )
    frozen: bool = Field(
        True,
        description="with `init`: no stage changes the trained expert; false trains it further in the stages `shared` "
        "and `joint`. Ignored without `init`",
    )

    @property
    def is_frozen(self) -> bool:
        """Whether no stage trains it."""
        return self.init is not None and self.frozen

    @model_validator(mode="after")
    def _check_init(self) -> Self:
        if self.init is None:
            return self
        if not self.init.strip():
            raise ValueError("init is empty: set it to ready, a folder or a hub id")
        if given := [name for name in FROM_ADAPTER if name in self.model_fields_set]:
            raise ValueError(f"{', '.join(given)}: the adapter of init determines it; remove it, or remove init")
        if self.frozen and "dropout" in self.model_fields_set:
            raise ValueError("dropout has no effect on a frozen expert: remove it, or set frozen to false")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what the trained adapter determines, so that saved settings can be read again."""
        settings: dict[str, Any] = serialize(self)
        if self.init is None:
            unused: tuple[str, ...] = ("init", "frozen")
        else:
            unused = (*FROM_ADAPTER, *(() if "dropout" in self.model_fields_set else ("dropout",)))
        return {key: value for key, value in settings.items() if key not in unused}
