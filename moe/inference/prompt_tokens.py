"""Prompts and answers as tokens of a causal language model, identical in training, evaluation and generation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from experts.errors import Fault
from moe.data.text_checks import replace_surrogates


@dataclass(frozen=True)
class PromptEncoder:
    """Encodes prompts and their answers.

    Args:
        tokenizer: of the backbone.
        template: of the mixture; it is applied to every prompt of the user.
        chat: whether to use the backbone's chat template; None uses it if there is one.

    Raises:
        Fault: if `chat` is true and the tokenizer has no chat template.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str = "{text}"
    chat: bool | None = None

    def __post_init__(self) -> None:
        if self.chat and not self.tokenizer.chat_template:
            raise Fault("a tokenizer with a chat template", "no chat template", "remove --chat")

    @property
    def uses_chat_template(self) -> bool:
        """Whether prompts are wrapped in the chat template."""
        return bool(self.tokenizer.chat_template) if self.chat is None else self.chat

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, up to where its answer begins."""
        return self.encode_turns([{"role": "user", "content": text}])

    def encode_turns(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a chat's turns (`role`, `content`), up to where the next answer begins.

        Raises:
            Fault: if the chat template rejects the turns; without one, if they are not a single turn of the user.
        """
        filled = [dict(turn) | {"content": self._fill_template(turn["role"], turn["content"])} for turn in turns]
        text = self._apply_chat_template(filled) if self.uses_chat_template else _single_user_turn(filled)
        ids: list[int] = self.tokenizer(text, add_special_tokens=not self.uses_chat_template)["input_ids"]
        end = self.tokenizer.eos_token_id
        return ids[:-1] if end is not None and ids[-1:] == [end] else ids  # no answer follows an end of text

    def _fill_template(self, role: str, text: str) -> str:
        text = replace_surrogates(text)
        return self.template.replace("{text}", text) if role == "user" else text

    def _apply_chat_template(self, turns: list[dict[str, str]]) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            reason = str(error)[:160] or type(error).__name__
            raise Fault("turns that the backbone's chat template accepts", reason, "send other turns") from error

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer after its prompt, including the end of text."""
        end = self.tokenizer.eos_token_id
        return self.encode_continuation(text) + ([] if end is None else [end])

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of an answer without its end of text; a space precedes it unless a chat template is used."""
        continuation = text if self.uses_chat_template else f" {text}"
        ids: list[int] = self.tokenizer(continuation, add_special_tokens=False)["input_ids"]
        return ids


def _single_user_turn(turns: Sequence[Mapping[str, str]]) -> str:
    """The content of the only turn, for a backbone without a chat template."""
    if [turn["role"] for turn in turns] != ["user"]:
        raise Fault(
            "one turn of the user, because the backbone has no chat template",
            f"turns of {', '.join(turn['role'] for turn in turns)}",
            "send the question only",
        )
    return turns[0]["content"]
