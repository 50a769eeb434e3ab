"""Prompts → answers of a language model's mixture: batched, padded on the left, with a cache; and who answered.

The gates on the way are `moe.model.mixture`'s; where prompts come from and answers go is
`moe.inference.generate_command`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from experts.errors import Fault, suggest
from moe.data.sampler import batch_by_tokens
from moe.inference.prompt_tokens import PromptEncoder
from moe.model.backbone import token_budget
from moe.model.mixture import Mixture, allowed_experts
from moe.profiling import oom_guard


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        new_tokens: most tokens of an answer.
        temperature: 0 takes the most probable token; more is more varied.
        top_p: draws among the most probable tokens that together have this probability.
        seed: of the draws.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 13

    def check(self) -> None:
        """Refuse numbers that choose nothing.

        Raises:
            Fault: naming the first.
        """
        faults = {
            "--max-new-tokens of 1 or more": (self.max_new_tokens, self.max_new_tokens >= 1),
            "--temperature of 0 or more": (self.temperature, self.temperature >= 0),
            "--top-p above 0 and at most 1": (self.top_p, 0 < self.top_p <= 1),
        }
        for expected, (found, good) in faults.items():
            if not good:
                raise Fault(expected, str(found), "mend it")

    def options(self) -> dict[str, Any]:
        """What transformers' `generate` is told, so that no default of the backbone's own speaks."""
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.temperature > 0:
            how |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return how | {"max_new_tokens": self.max_new_tokens, "num_beams": 1, "use_cache": True}


@dataclass(frozen=True)
class GeneratedText:
    """One answer: its text, and each expert's share, meaned where tokens are routed; None of a lone expert.

    `tokens` are those of the answer, its end among them; `ended` tells whether it came to its end by itself.
    """

    text: str
    routing_weights: dict[str, float] | None
    new_tokens: int
    finished: bool


class Generator:
    """Answers prompts with one mixture, or one expert alone.

    Args:
        model: over a causal language model.
        template: the one that it was trained with.
        sampling: how tokens are chosen.
        hard: each text, or token, goes to its one most probable expert.
        chat: put prompts into the backbone's chat template; by default where it has one.

    Raises:
        Fault: when the model predicts masked tokens, or has no chat template and one is asked for.
    """

    def __init__(
        self,
        model: Mixture,
        template: str = "{text}",
        sampling: Sampling = Sampling(),
        hard: bool = False,
        chat: bool | None = None,
    ) -> None:
        head = model.loaded_backbone.lm_head
        if head is None or head.kind != "causal":
            raise Fault(
                "a mixture over a causal language model", "one that cannot write", "train one with moe pretrain"
            )
        self.model, self.sampling, self.hard = model.eval(), sampling, hard
        self.tokenizer, self.whole = model.loaded_backbone.tokenizer, head.model
        self.prompt_encoder = PromptEncoder(self.tokenizer, template, chat)
        self.context_length = int(getattr(model.backbone.config, "max_position_embeddings", 0)) or None

    def encode(self, prompt: str | Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a prompt, or of a chat's turns (`role`, `content`), in their templates.

        Raises:
            Fault: when it leaves no room for an answer, or no template takes such turns.
        """
        ids = self.prompt_encoder.encode_prompt(prompt) if isinstance(prompt, str) else self.prompt_encoder.encode_turns(prompt)
        room = (self.context_length or len(ids) + self.sampling.max_new_tokens) - self.sampling.max_new_tokens
        if len(ids) > room:
            raise Fault(
                f"a prompt of at most {max(0, room)} tokens, with {self.sampling.max_new_tokens} for the answer "
                f"in a context of {self.context_length}",
                f"{len(ids)} tokens",
                "shorten it, or lower --max-new-tokens",
            )
        return ids

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        pin: str | None = None,
        streamer: Any = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[GeneratedText]:
        """Answer prompts, given as token ids, in their order.

        Args:
            pin: a domain, whose experts alone answer; None leaves it to the router.
            streamer: is shown each token of a single prompt as it comes.
            stop: asked after each token whether to leave it at that.

        Raises:
            Fault: when the domain is unknown, or memory runs out.
        """
        lengths = [len(ids) + self.sampling.max_new_tokens for ids in prompts]
        budget = token_budget(self.model.backbone.device, self.model.backbone.dtype)
        found: dict[int, GeneratedText] = {}
        for batch in batch_by_tokens(lengths, budget) if prompts else ():
            with oom_guard("lower --max-new-tokens, or shorten the prompts"):
                answers = self._batch([prompts[int(i)] for i in batch], pin, streamer, stop)
            found |= {int(i): one for i, one in zip(batch, answers, strict=True)}
        return [found[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def _batch(
        self, prompts: Sequence[Sequence[int]], pin: str | None, streamer: Any, stop: Callable[[], bool]
    ) -> list[GeneratedText]:
        ids, mask = self._padded(prompts)
        torch.manual_seed(self.sampling.seed)
        how = {"pad_token_id": self.tokenizer.pad_token_id, "streamer": streamer} | self.sampling.options()
        until = StoppingCriteriaList([_Until(stop)])
        with self.model.generation(self.model.content_mask(ids, mask), self._allowed(pin, len(ids)), self.hard) as said:
            out = self.whole.generate(input_ids=ids, attention_mask=mask, stopping_criteria=until, **how)  # (B, T + N)
            shares = said()
        new = out[:, ids.shape[1] :]  # (B, N)
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        means = [None] * len(texts) if shares is None else self._means(shares, mask, new)
        counts = [int(count) for count in self._running(new).sum(1)]
        ended = [count < self.sampling.max_new_tokens or self._ends(row) for count, row in zip(counts, new, strict=True)]
        told = zip(texts, means, counts, ended, strict=True)
        return [GeneratedText(text.strip(), mean, count, end) for text, mean, count, end in told]

    def _ends(self, new: Tensor) -> bool:
        """Whether an answer (N,) of all the tokens that it may have has its end as the last."""
        return int(new[-1]) == self.tokenizer.eos_token_id

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, (B, T) each, padded on the left."""
        width, device = max(map(len, prompts)), self.model.domain_expert_mask.device
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id)  # (B, T)
        mask = torch.zeros_like(ids)  # (B, T)
        for row, one in enumerate(prompts):
            ids[row, width - len(one) :] = torch.tensor(one)
            mask[row, width - len(one) :] = 1
        return ids.to(device), mask.to(device)

    def _allowed(self, pin: str | None, count: int) -> Tensor | None:
        if pin is None:
            return None
        names = [domain.name for domain in self.model.domains]
        if pin not in names:
            raise Fault(f"one of the domains {', '.join(names)}", repr(pin), suggest(pin, names))
        index = torch.full((count,), names.index(pin), device=self.model.domain_expert_mask.device)  # (B,)
        return allowed_experts(self.model.domain_expert_mask, index)  # (B, E)

    def _means(self, shares: Tensor, mask: Tensor, new: Tensor) -> list[dict[str, float] | None]:
        if shares.dim() == 3:  # of a prompt's tokens, and of all but the last new one, up to where the text ends
            real = torch.cat([mask, self._running(new)[:, :-1]], 1)[:, : shares.shape[1], None]  # (B, T', 1)
            shares = (shares * real).sum(1) / real.sum(1)  # (B, E)
        rows = np.asarray(shares.float().cpu())  # (B, E)
        return [dict(zip(self.model.bank.routed_experts, map(float, row), strict=True)) for row in rows]

    def _running(self, new: Tensor) -> Tensor:
        """(B, N), 1 up to where each answer ends."""
        end = self.tokenizer.eos_token_id
        ended = torch.zeros_like(new) if end is None else (new == end).long()  # (B, N)
        return (ended.cumsum(1) - ended == 0).long()  # (B, N)


class _Until(StoppingCriteria):
    """Ends all answers when it is told to."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self.stop = stop

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """After each token: (B,) bool."""
        return torch.full((len(input_ids),), self.stop(), device=input_ids.device)  # (B,)
