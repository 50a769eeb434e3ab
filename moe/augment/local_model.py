"""A language model on this machine that writes texts, in place of one behind an endpoint: a question, an answer.

What is asked is `prompts`'. It is loaded once, and asked one question after the other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from experts.errors import Fault
from moe.augment.endpoint import Answer
from moe.augment.prompts import Message
from moe.data.schema import AugmentSettings


class LocalWriter:
    """Asks one model; see `Endpoint.ask`.

    Args:
        folder: as transformers saves it, its tokenizer with a chat template.

    Raises:
        Fault: when there is no such model, or it cannot chat.
    """

    def __init__(self, folder: str, settings: AugmentSettings) -> None:
        if not (Path(folder) / "config.json").is_file():
            raise Fault(f"a language model's folder at {folder}", "none", "name one, or ask an endpoint by --base-url")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:160]
            raise Fault(
                f"a causal language model that transformers loads at {folder}", reason, "name another"
            ) from error
        if not self._tokenizer.chat_template:
            raise Fault(
                f"a model that chats at {folder}", "a tokenizer without chat template", "name an instruct model"
            )
        self._settings = settings
        torch.manual_seed(settings.seed)

    @torch.inference_mode()
    def ask(self, messages: Sequence[Message]) -> Answer:
        """One answer, drawn at the settings' temperature."""
        framed = str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        ids = self._tokenizer(framed, return_tensors="pt", add_special_tokens=False)["input_ids"]  # (1, T)
        warm = self._settings.temperature > 0
        how = {"do_sample": True, "temperature": self._settings.temperature} if warm else {"do_sample": False}
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id
        out = self._model.generate(ids, max_new_tokens=self._settings.max_tokens, pad_token_id=pad, **how)  # (1, T + N)
        new = out[0, ids.shape[1] :]  # (N,)
        text = str(self._tokenizer.decode(new, skip_special_tokens=True))
        return Answer(text, cut=len(new) >= self._settings.max_tokens)

    def close(self) -> None:
        """Nothing is held open."""
