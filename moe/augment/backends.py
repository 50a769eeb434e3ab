"""Language models that write augmented rows: one behind an OpenAI-compatible endpoint, or a local one."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.markup import escape
from transformers import AutoModelForCausalLM, AutoTokenizer

from experts.errors import Fault
from moe.augment.prompts import Message
from moe.console import info
from moe.data.schema import API_KEY_ENV, AugmentSettings
from moe.extras import require
from moe.profiling import is_out_of_memory

PLACEHOLDER_KEY = "none"
_SHOWN_MODELS = 8


class EndpointOptions(NamedTuple):
    """How the user gives address, model and key of an endpoint, for messages."""

    base_url: str = "--base-url"
    model: str = "--model"
    key_env: str = "--key-env"


@dataclass(frozen=True)
class EndpointConfig:
    """Address of an endpoint, name of the model there, and the environment variable that holds the API key."""

    base_url: str
    model: str
    key_env: str = API_KEY_ENV
    options: EndpointOptions = EndpointOptions()

    @classmethod
    def from_options(cls, base_url: str | None, model: str | None, key_env: str = API_KEY_ENV) -> "EndpointConfig":
        """Build from command-line options.

        Raises:
            Fault: if the address or the model is missing, or the address is no URL.
        """
        if not base_url or not model:
            missing = " and ".join(
                option for option, value in (("--base-url", base_url), ("--model", model)) if not value
            )
            raise Fault(
                "--base-url and --model",
                f"no {missing}",
                "set both, e.g. --base-url http://localhost:11434/v1 --model qwen3:8b, or use --dry-run",
            )
        if not base_url.startswith(("http://", "https://")):
            raise Fault(
                "--base-url http://… or https://…", repr(base_url), "give the full address, which usually ends in /v1"
            )
        return cls(base_url, model, key_env)


@dataclass(frozen=True)
class Completion:
    """A language model's response.

    Args:
        text: as the model returned it.
        truncated: whether generation stopped at `max_tokens`.
        failure: why there is no response; None if there is one.
        refused: whether the server refused this prompt, which another request would not change.
        logprobs: most probable first tokens with their log-probabilities; empty if the server gives none.
    """

    text: str = ""
    truncated: bool = False
    failure: str | None = None
    refused: bool = False
    logprobs: tuple[tuple[str, float], ...] = ()


class EndpointClient:
    """A model behind an OpenAI-compatible endpoint; thread-safe. The `openai` package pauses and retries.

    A parameter that the server refuses is not sent again: newer models take `max_completion_tokens` instead of
    `max_tokens`, and some have a fixed temperature or give no log-probabilities.

    Args:
        endpoint: its address.
        settings: temperature, length, retries and timeout of a request.
        logprobs: number of most probable first tokens to request with their log-probabilities.

    Raises:
        Fault: if the `openai` package is not installed.
    """

    def __init__(self, endpoint: EndpointConfig, settings: AugmentSettings, logprobs: int = 0) -> None:
        self._openai, self.endpoint, self._settings = require("openai", "augment"), endpoint, settings
        self._responded = False
        self._parameters: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
        if logprobs:
            self._parameters |= {"logprobs": True, "top_logprobs": logprobs}
        self._client = self._openai.OpenAI(
            base_url=endpoint.base_url,
            api_key=os.environ.get(endpoint.key_env, "").strip() or PLACEHOLDER_KEY,
            max_retries=settings.retries,
            timeout=settings.timeout,
        )

    def complete(self, messages: Sequence[Message]) -> Completion:
        """Return the model's response, or one with `failure` if the request still fails after its retries.

        Raises:
            Fault: if no other request can succeed either: there is no connection, or key or model are refused.
        """
        openai, parameters = self._openai, self._parameters
        try:
            response = self._client.chat.completions.create(
                model=self.endpoint.model, messages=list(messages), **parameters
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._key_fault(error) from error
        except openai.NotFoundError as error:
            raise self._model_fault(error) from error
        except openai.APITimeoutError:
            return Completion(failure=f"no response within {self._settings.timeout:g} seconds")
        except openai.APIConnectionError as error:
            if not self._responded:
                raise self._connection_fault(error) from error
            return Completion(failure=_reason(error))
        except (openai.OpenAIError, ValueError) as error:
            refused = isinstance(error, openai.BadRequestError)
            accepted = _accepted_parameters(parameters, str(error)) if refused else parameters
            if accepted != parameters:
                self._accept(accepted)
                return self.complete(messages)
            return Completion(failure=_reason(error), refused=refused)
        self._responded = True
        return _parse(response)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _accept(self, parameters: dict[str, Any]) -> None:
        """Send these parameters from now on."""
        if "temperature" in self._parameters and "temperature" not in parameters:
            info(escape(f"{self.endpoint.model} has a fixed temperature; {self._settings.temperature:g} is not used"))
        self._parameters = parameters

    def _key_fault(self, error: Exception) -> Fault:
        variable, names = self.endpoint.key_env, self.endpoint.options
        is_set = bool(os.environ.get(variable, "").strip())
        key = f"the key in {variable} refused" if is_set else f"no key: {variable} is not set"
        return Fault(
            f"an API key that {self.endpoint.base_url} accepts",
            f"{key} ({_reason(error)})",
            f"set the environment variable {variable} to your key, or use another variable with {names.key_env}",
        )

    def _model_fault(self, error: Exception) -> Fault:
        known, model, names = self._models(), self.endpoint.model, self.endpoint.options
        closest = difflib.get_close_matches(model, known, n=1, cutoff=0.4)
        check = f"check {names.model}, and that {names.base_url} ends in /v1"
        remedy = f"did you mean {names.model} {closest[0]}?" if closest else check
        available = f"; available: {', '.join(known[:_SHOWN_MODELS])}" if known else ""
        return Fault(f"a model {model} at {self.endpoint.base_url}", f"{_reason(error)}{available}", remedy)

    def _models(self) -> list[str]:
        try:
            return sorted(model.id for model in self._client.with_options(max_retries=0).models.list())
        except (self._openai.OpenAIError, ValueError, AttributeError, TypeError):
            return []

    def _connection_fault(self, error: Exception) -> Fault:
        return Fault(
            f"an endpoint that responds at {self.endpoint.base_url}",
            _reason(error.__cause__ or error),
            f"start the server, or correct {self.endpoint.options.base_url}",
        )


def _accepted_parameters(parameters: dict[str, Any], refusal: str) -> dict[str, Any]:
    """Return the parameters of a request without the one that a server's refusal names, or with its newer name."""
    if "logprobs" in refusal:
        return {name: value for name, value in parameters.items() if "logprobs" not in name}
    if "max_completion_tokens" in refusal and "max_tokens" in parameters:
        others = {name: value for name, value in parameters.items() if name != "max_tokens"}
        return others | {"max_completion_tokens": parameters["max_tokens"]}
    if "'temperature'" in refusal and "support" in refusal:  # a value out of range is refused in other words
        return {name: value for name, value in parameters.items() if name != "temperature"}
    return parameters


def _parse(response: Any) -> Completion:
    """Read a chat completion; some servers return malformed ones with status 200."""
    try:
        choice = response.choices[0]
        text = choice.message.content
    except (AttributeError, IndexError, TypeError):
        return Completion(failure="the response holds no completion")
    truncated = choice.finish_reason == "length"
    return Completion(text if isinstance(text, str) else "", truncated, logprobs=_first_tokens(choice))


def _first_tokens(choice: Any) -> tuple[tuple[str, float], ...]:
    try:
        return tuple((str(entry.token), float(entry.logprob)) for entry in choice.logprobs.content[0].top_logprobs)
    except (AttributeError, IndexError, TypeError, ValueError):
        return ()


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class LocalModel:
    """A causal language model that is run in this process; see `EndpointClient.complete`.

    Args:
        folder: a model folder as transformers saves it, whose tokenizer has a chat template.
        settings: temperature, length and seed.

    Raises:
        Fault: if there is no such model, or its tokenizer has no chat template.
    """

    def __init__(self, folder: str, settings: AugmentSettings) -> None:
        if not (Path(folder) / "config.json").is_file():
            raise Fault(
                f"a language model's folder at {folder}",
                "no config.json",
                "set --local to a folder saved by transformers, or use an endpoint with --base-url",
            )
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True
            )
        except Exception as error:  # whatever the library raises about the model's files
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:160]
            raise Fault(
                f"a causal language model that transformers can load at {folder}", reason, "use another model"
            ) from error
        if not self._tokenizer.chat_template:
            raise Fault(
                f"a chat model at {folder}", "a tokenizer without a chat template", "use an instruction-tuned model"
            )
        self._settings = settings
        torch.manual_seed(settings.seed)

    @torch.inference_mode()
    def complete(self, messages: Sequence[Message]) -> Completion:
        """Return one response, sampled at the settings' temperature."""
        prompt = str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        ids = self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]  # (1, T)
        sample = self._settings.temperature > 0
        sampling = {"do_sample": True, "temperature": self._settings.temperature} if sample else {"do_sample": False}
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id
        out = self._model.generate(
            ids, max_new_tokens=self._settings.max_tokens, pad_token_id=pad, **sampling
        )  # (1, T + N)
        new = out[0, ids.shape[1] :]  # (N,)
        text = str(self._tokenizer.decode(new, skip_special_tokens=True))
        return Completion(text, truncated=len(new) >= self._settings.max_tokens)

    def close(self) -> None:
        """Do nothing: there are no connections."""
