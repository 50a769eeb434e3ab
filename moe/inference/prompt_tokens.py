"""Questions and answers as tokens of a causal language model, the same in training, judging and generation.

What is asked is `moe.data.prompt_templates`'; what is done with the tokens, `moe.training.instruct`'s and
`moe.inference.generator`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from experts.errors import Fault
from moe.data.collator import replace_surrogates


@dataclass(frozen=True)
class PromptEncoder:
    """How a prompt is framed, and what follows it.

    Args:
        tokenizer: the backbone's.
        template: the mixture's, around every prompt.
        chat: put prompts into the backbone's chat template; None where it has one.

    Raises:
        Fault: when a chat template is asked for and there is none.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str = "{text}"
    chat: bool | None = None

    def __post_init__(self) -> None:
        if self.chat and not self.tokenizer.chat_template:
            raise Fault("a tokenizer with a chat template", "none", "leave --chat out")

    @property
    def uses_chat_template(self) -> bool:
        """Whether prompts are turns of a chat."""
        return bool(self.tokenizer.chat_template) if self.chat is None else self.chat

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, up to where its answer begins."""
        return self.encode_turns([{"role": "user", "content": text}])

    def encode_turns(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a chat's turns (`role`, `content`), up to where the next answer begins.

        Raises:
            Fault: when there are several, or others than the user's, and the backbone's chat template takes no such.
        """
        told = [dict(one) | {"content": self._filled(one["role"], one["content"])} for one in turns]
        filled = self._chat(told) if self.uses_chat_template else _lone(told)
        ids: list[int] = self.tokenizer(filled, add_special_tokens=not self.uses_chat_template)["input_ids"]
        end = self.tokenizer.eos_token_id
        return ids[:-1] if end is not None and ids[-1:] == [end] else ids  # an end of text begins no answer

    def _filled(self, role: str, text: str) -> str:
        return self.template.replace("{text}", replace_surrogates(text)) if role == "user" else replace_surrogates(text)

    def _chat(self, turns: list[dict[str, str]]) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            reason = str(error)[:160] or type(error).__name__
            raise Fault("turns that the backbone's chat template takes", reason, "send others") from error

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer behind a prompt, its end of text among them."""
        end = self.tokenizer.eos_token_id
        return self.encode_continuation(text) + ([] if end is None else [end])

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of an answer's words: after a space, unless a chat's turn begins with them."""
        spoken = text if self.uses_chat_template else f" {text}"
        ids: list[int] = self.tokenizer(spoken, add_special_tokens=False)["input_ids"]
        return ids


def _lone(turns: Sequence[Mapping[str, str]]) -> str:
    """What a backbone without a chat template is told: the user's one turn."""
    if [one["role"] for one in turns] != ["user"]:
        found = f"turns of {', '.join(one['role'] for one in turns)}"
        raise Fault("one turn of the user: the backbone has no chat template", found, "send the question alone")
    return turns[0]["content"]
