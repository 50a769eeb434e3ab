"""Text generation with a mixture over a causal language model: batched, left-padded, with a KV cache."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from experts.errors import Fault, suggest
from moe.inference.batches import batch_by_tokens
from moe.inference.finite import NonFiniteScores
from moe.inference.prompt_tokens import PromptEncoder
from moe.inference.torch_predictor import token_budget
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode
from moe.model.routing import allowed_experts
from moe.profiling import oom_guard


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are drawn.

    Args:
        max_new_tokens: maximal length of an answer, in tokens.
        temperature: 0 is greedy decoding; higher values give more varied answers.
        top_p: nucleus sampling: draw among the most probable tokens that together have this probability.
        seed: of the draws.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 13

    def check(self) -> None:
        """Check the ranges.

        Raises:
            Fault: for the first value out of range.
        """
        ranges = {
            "--max-new-tokens of 1 or more": (self.max_new_tokens, self.max_new_tokens >= 1),
            "--temperature of 0 or more": (self.temperature, self.temperature >= 0),
            "--top-p above 0 and at most 1": (self.top_p, 0 < self.top_p <= 1),
        }
        for expected, (value, valid) in ranges.items():
            if not valid:
                raise Fault(expected, str(value), "set a value in this range")

    def generate_kwargs(self) -> dict[str, float | bool | None]:
        """Arguments of transformers' `generate`; they set every option, so that no default of the backbone applies."""
        kwargs: dict[str, float | bool | None] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.temperature > 0:
            kwargs |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return kwargs | {"max_new_tokens": self.max_new_tokens, "num_beams": 1, "use_cache": True}


@dataclass(frozen=True)
class GeneratedText:
    """One generated answer.

    Args:
        text: without special tokens.
        routing_weights: by expert; the mean over tokens if tokens are routed; None for a single expert.
        new_tokens: number of generated tokens, the end of text included.
        finished: whether the answer reached its end of text within `max_new_tokens`.
    """

    text: str
    routing_weights: dict[str, float] | None
    new_tokens: int
    finished: bool


class Generator:
    """Generates answers to prompts with a mixture or a single expert.

    Args:
        model: a mixture over a causal language model.
        template: the prompt template that the model was trained with.
        sampling: how tokens are drawn.
        mode: how texts, or tokens, are routed; by default the model's own mode.
        chat: whether to use the backbone's chat template; None uses it if there is one.

    Raises:
        Fault: if the backbone is no causal language model, or has no chat template and `chat` is true.
    """

    def __init__(
        self,
        model: Mixture,
        template: str = "{text}",
        sampling: Sampling = Sampling(),
        mode: RoutingMode | None = None,
        chat: bool | None = None,
    ) -> None:
        head = model.loaded_backbone.lm_head
        if head is None or head.kind != "causal":
            raise Fault(
                "a mixture over a causal language model",
                "a model that cannot generate text",
                "train one with moe pretrain",
            )
        self.model, self.sampling, self.mode = model.eval(), sampling, mode or model.mode
        self.tokenizer, self.language_model = model.loaded_backbone.tokenizer, head.model
        self.prompt_encoder = PromptEncoder(self.tokenizer, template, chat)
        self.context_length = int(getattr(model.backbone.config, "max_position_embeddings", 0)) or None

    def encode(self, prompt: str | Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a prompt, or of a chat's turns (`role`, `content`), in their template.

        Raises:
            Fault: if the context has no room left for the answer, or the chat template rejects the turns.
        """
        if isinstance(prompt, str):
            ids = self.prompt_encoder.encode_prompt(prompt)
        else:
            ids = self.prompt_encoder.encode_turns(prompt)
        room = (self.context_length or len(ids) + self.sampling.max_new_tokens) - self.sampling.max_new_tokens
        if len(ids) > room:
            raise Fault(
                f"a prompt of at most {max(0, room)} tokens, with {self.sampling.max_new_tokens} for the answer "
                f"in a context of {self.context_length}",
                f"{len(ids)} tokens",
                "shorten the prompt, or lower --max-new-tokens",
            )
        return ids

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        pin: str | None = None,
        streamer: Any = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[GeneratedText]:
        """Generate answers to prompts, given as token ids.

        Args:
            pin: a domain, to whose experts the prompts are restricted; None lets the router decide.
            streamer: a transformers streamer that receives each token of a single prompt as it is generated.
            stop: called after each token; true ends all answers.

        Returns:
            the answers, in the order of the prompts.

        Raises:
            Fault: if the domain is unknown, memory runs out, or the model's output is not finite (`NonFiniteScores`).
        """
        lengths = [len(ids) + self.sampling.max_new_tokens for ids in prompts]
        budget = token_budget(self.model.backbone.device, self.model.backbone.dtype)
        answers: dict[int, GeneratedText] = {}
        for batch in batch_by_tokens(lengths, budget) if prompts else ():
            with oom_guard("lower --max-new-tokens, or shorten the prompts"):
                generated = self._generate_batch([prompts[int(i)] for i in batch], pin, streamer, stop)
            answers |= {int(i): answer for i, answer in zip(batch, generated, strict=True)}
        return [answers[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def _generate_batch(
        self, prompts: Sequence[Sequence[int]], pin: str | None, streamer: Any, stop: Callable[[], bool]
    ) -> list[GeneratedText]:
        ids, mask = self._left_pad(prompts)
        torch.manual_seed(self.sampling.seed)
        content, allowed = self.model.content_mask(ids, mask), self._pinned_experts(pin, len(ids))
        with self.model.generation(content, allowed, self.mode) as routing_probs:
            out = self.language_model.generate(
                input_ids=ids,
                attention_mask=mask,
                logits_processor=LogitsProcessorList([_RequireFinite()]),
                stopping_criteria=StoppingCriteriaList([_StopWhen(stop)]),
                pad_token_id=self.tokenizer.pad_token_id,
                streamer=streamer,
                **self.sampling.generate_kwargs(),
            )  # (B, T + N)
            probs = routing_probs()
        new = out[:, ids.shape[1] :]  # (B, N)
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        weights = [None] * len(texts) if probs is None else self._mean_weights(probs, mask, new)
        counts = [int(count) for count in self._answer_mask(new).sum(1)]
        limit, end = self.sampling.max_new_tokens, self.tokenizer.eos_token_id
        finished = [count < limit or int(row[-1]) == end for count, row in zip(counts, new, strict=True)]
        return [
            GeneratedText(text.strip(), weight, count, done)
            for text, weight, count, done in zip(texts, weights, counts, finished, strict=True)
        ]

    def _left_pad(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, (B, T) each, padded on the left."""
        width, device = max(map(len, prompts)), self.model.domain_expert_mask.device
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id)  # (B, T)
        mask = torch.zeros_like(ids)  # (B, T)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids.to(device), mask.to(device)

    def _pinned_experts(self, pin: str | None, count: int) -> Tensor | None:
        if pin is None:
            return None
        names = [domain.name for domain in self.model.domains]
        if pin not in names:
            raise Fault(f"one of the domains {', '.join(names)}", repr(pin), suggest(pin, names))
        index = torch.full((count,), names.index(pin), device=self.model.domain_expert_mask.device)  # (B,)
        return allowed_experts(self.model.domain_expert_mask, index)  # (B, E)

    def _mean_weights(self, probs: Tensor, mask: Tensor, new: Tensor) -> list[dict[str, float] | None]:
        """Routing weights by expert; with token routing (B, T', E), the mean over the prompt's and answer's tokens."""
        if probs.dim() == 3:  # the last new token was never an input, so it was not routed
            real = torch.cat([mask, self._answer_mask(new)[:, :-1]], 1)[:, : probs.shape[1], None]  # (B, T', 1)
            probs = (probs * real).sum(1) / real.sum(1)  # (B, E)
        rows = np.asarray(probs.float().cpu())  # (B, E)
        return [dict(zip(self.model.bank.routed_experts, map(float, row), strict=True)) for row in rows]

    def _answer_mask(self, new: Tensor) -> Tensor:
        """(B, N), 1 up to and including each answer's end of text."""
        end = self.tokenizer.eos_token_id
        ended = torch.zeros_like(new) if end is None else (new == end).long()  # (B, N)
        return (ended.cumsum(1) - ended == 0).long()  # (B, N)


class _RequireFinite(LogitsProcessor):
    """Refuses logits from which no token can be drawn."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits (B, K) of the next token unchanged.

        Raises:
            NonFiniteScores: if one is NaN or infinite; minus infinity only excludes a token.
        """
        if not bool((scores < torch.inf).all()):
            raise NonFiniteScores("logits")
        return scores


class _StopWhen(StoppingCriteria):
    """Ends all answers as soon as a function returns true."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self.stop = stop

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """(B,) bool, after each token."""
        return torch.full((len(input_ids),), self.stop(), device=input_ids.device)  # (B,)
