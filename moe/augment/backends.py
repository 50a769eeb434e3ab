"""A language model behind an OpenAI-compatible endpoint: one question, one answer, and faults that people understand.

What is asked is left to `prompts`, what an answer is worth to `sieve`. Pauses and retries are the `openai` package's.
"""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from experts.errors import Fault
from moe.augment.prompts import Message
from moe.data.schema import AugmentSettings

API_KEY_ENV = "OPENAI_API_KEY"
PLACEHOLDER_KEY = "none"
_SHOWN_MODELS = 8


@dataclass(frozen=True)
class EndpointConfig:
    """Whom to ask: the endpoint's address, the model's name there, the environment variable that holds the key."""

    base_url: str
    model: str
    key_env: str = API_KEY_ENV

    @classmethod
    def named(cls, base_url: str | None, model: str | None, key_env: str = API_KEY_ENV) -> "EndpointConfig":
        """What a user named.

        Raises:
            Fault: when the address or the model is missing, or the address is none.
        """
        if not base_url or not model:
            missing = " and ".join(name for name, one in (("--base-url", base_url), ("--model", model)) if not one)
            raise Fault(
                "--base-url and --model, which say whom to ask",
                f"no {missing}",
                "name them, e.g. --base-url http://localhost:11434/v1 --model qwen3:8b, or pass --dry-run",
            )
        if not base_url.startswith(("http://", "https://")):
            raise Fault(
                "--base-url http://… or https://…", repr(base_url), "write the whole address, as a rule up to /v1"
            )
        return cls(base_url, model, key_env)


@dataclass(frozen=True)
class Completion:
    """What came back.

    Args:
        text: what the model said, as it said it.
        cut: whether it was cut at `max_tokens`.
        failure: why there is no answer; None when there is one.
    """

    text: str = ""
    truncated: bool = False
    failure: str | None = None


class EndpointClient:
    """Asks one model; may be asked by several threads at once.

    Raises:
        Fault: when the `openai` package is not installed.
    """

    def __init__(self, service: EndpointConfig, settings: AugmentSettings) -> None:
        self._openai, self.service, self._settings = _library(), service, settings
        self._answered = False
        self._client = self._openai.OpenAI(
            base_url=service.base_url,
            api_key=os.environ.get(service.key_env, "").strip() or PLACEHOLDER_KEY,
            max_retries=settings.retries,
            timeout=settings.timeout,
        )

    def complete(self, messages: Sequence[Message]) -> Completion:
        """One answer; one that fails for good, after its retries, is an answer with `failure`.

        Raises:
            Fault: when no further question can fare better: nobody answers there, the key or the model is refused.
        """
        openai = self._openai
        try:
            found = self._client.chat.completions.create(
                model=self.service.model,
                messages=list(messages),
                temperature=self._settings.temperature,
                max_tokens=self._settings.max_tokens,
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._key_fault(error) from error
        except openai.NotFoundError as error:
            raise self._model_fault(error) from error
        except openai.APITimeoutError:
            return Completion(failure=f"no answer within {self._settings.timeout:g} seconds")
        except openai.APIConnectionError as error:
            if not self._answered:
                raise self._unreachable(error) from error
            return Completion(failure=_reason(error))
        except (openai.OpenAIError, ValueError) as error:
            return Completion(failure=_reason(error))
        self._answered = True
        return _read(found)

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def _key_fault(self, error: Exception) -> Fault:
        variable = self.service.key_env
        held = f"the key in {variable}" if os.environ.get(variable, "").strip() else f"no key: {variable} is not set"
        return Fault(
            f"a key that {self.service.base_url} accepts",
            f"{held} ({_reason(error)})",
            f"put the key into the environment variable {variable}, or name another by --key-env",
        )

    def _model_fault(self, error: Exception) -> Fault:
        known, model = self._models(), self.service.model
        near = difflib.get_close_matches(model, known, n=1, cutoff=0.4)
        remedy = f"did you mean --model {near[0]}?" if near else "name a model that is there; most addresses end in /v1"
        there = f"; it has {', '.join(known[:_SHOWN_MODELS])}" if known else ""
        return Fault(f"a model {model} at {self.service.base_url}", f"{_reason(error)}{there}", remedy)

    def _models(self) -> list[str]:
        try:
            return sorted(one.id for one in self._client.with_options(max_retries=0).models.list())
        except (self._openai.OpenAIError, ValueError, AttributeError, TypeError):
            return []

    def _unreachable(self, error: Exception) -> Fault:
        return Fault(
            f"an endpoint that answers at {self.service.base_url}",
            _reason(error.__cause__ or error),
            "start the server, or name its address by --base-url",
        )


def _library() -> Any:
    try:
        import openai  # an optional extra, and slow to import
    except ImportError as error:
        raise Fault(
            "the package openai, which talks to the endpoint", "none installed", "run: pip install 'finmoe[augment]'"
        ) from error
    return openai


def _read(found: Any) -> Completion:
    """What a completion says; servers send all sorts of things with status 200."""
    try:
        choice = found.choices[0]
        text = choice.message.content
    except (AttributeError, IndexError, TypeError):
        return Completion(failure="no completion in what came back")
    return Completion(text if isinstance(text, str) else "", choice.finish_reason == "length")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class LocalModel:
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
    def complete(self, messages: Sequence[Message]) -> Completion:
        """One answer, drawn at the settings' temperature."""
        framed = str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        ids = self._tokenizer(framed, return_tensors="pt", add_special_tokens=False)["input_ids"]  # (1, T)
        warm = self._settings.temperature > 0
        how = {"do_sample": True, "temperature": self._settings.temperature} if warm else {"do_sample": False}
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id
        out = self._model.generate(ids, max_new_tokens=self._settings.max_tokens, pad_token_id=pad, **how)  # (1, T + N)
        new = out[0, ids.shape[1] :]  # (N,)
        text = str(self._tokenizer.decode(new, skip_special_tokens=True))
        return Completion(text, truncated=len(new) >= self._settings.max_tokens)

    def close(self) -> None:
        """Nothing is held open."""
