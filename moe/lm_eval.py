"""FinMoE as a model of EleutherAI's lm-evaluation-harness, to evaluate a mixture on any of its tasks.

Needs `pip install 'finmoe[harness]'`. For this project's own question tasks see `moe.qa`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from moe.inference.generator import Generator, Sampling
from moe.inference.load import check_routing
from moe.inference.load_mixture import load_mixture
from moe.inference.scoring import Likelihood, Pair, likelihoods
from moe.runs.model_ref import resolve

MAX_NEW_TOKENS = 128
DEFAULT_CONTEXT_LENGTH = 2048
"""Context length in tokens for a backbone that states none."""
TokenizedRequest = tuple[tuple[str, str], list[int], list[int]]


@register_model("finmoe")
class FinMoE(TemplateLM):
    """A mixture or a single expert over a causal language model, as lm-evaluation-harness takes it.

    Args:
        pretrained: folder of the model or of a run, or its name on the Hub.
        routing: `soft` or `hard`.
        bare: evaluate the backbone without experts, for comparison.

    Raises:
        Fault: if there is no such model, or its backbone is no causal language model.

    Example:
        >>> lm_eval.simple_evaluate(model=FinMoE("runs/roles/moe-instruct"), tasks=["sciq"])  # doctest: +SKIP
    """

    def __init__(self, pretrained: str | Path, routing: str = "soft", bare: bool = False) -> None:
        super().__init__()
        self.model, template, _ = load_mixture(resolve(pretrained), language=True)
        without = tuple(self.model.bank.adapters) if bare else ()
        self.mode = replace(self.model.mode, hard=check_routing(routing, ("soft", "hard")) == "hard", without=without)
        self.generator = Generator(self.model, template, mode=self.mode, chat=False)
        self.tokenizer = self.model.loaded_backbone.tokenizer
        self.context_length = self.generator.context_length or DEFAULT_CONTEXT_LENGTH

    @property
    def eot_token_id(self) -> int:
        """Id of the end-of-text token, which also stands for an empty prompt."""
        end = self.tokenizer.eos_token_id
        return int(self.tokenizer.pad_token_id if end is None else end)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer in the harness's caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a string, without the special token at its end, so that a continuation can follow.

        Args:
            add_special_tokens: whether to add the tokenizer's special tokens; by default they are added.
        """
        special = True if add_special_tokens is None else add_special_tokens
        ids: list[int] = self.tokenizer(string, add_special_tokens=special)["input_ids"]
        ends = (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        return ids[:-1] if special and len(ids) > 1 and ids[-1] in ends else ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Format a chat with the backbone's chat template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Σ log p of entire texts, in windows of the context length; each token is predicted once."""
        totals = []
        for (text,) in (request.args for request in requests):
            ids = self.tok_encode(text, add_special_tokens=False)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.context_length - 1, 1)
            pairs: list[Pair] = [make_disjoint_window(window) for window in windows]
            totals.append(sum(likelihood.total for likelihood in self._likelihoods(pairs)))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate continuations, each truncated at the first of its stop strings."""
        continuations = []
        for request in requests:
            context, options = cast(tuple[str, dict[str, Any]], request.args)
            sampling = _to_sampling(options)
            generator = Generator(self.model, "{text}", sampling, mode=self.mode, chat=False)
            ids = self.tok_encode(context)[-max(1, self.context_length - sampling.max_new_tokens) :]
            (generated,) = generator.generate([ids])
            continuations.append(_truncate(generated.text, options.get("until") or ()))
        return continuations

    def _loglikelihood_tokens(self, requests: list[TokenizedRequest], **_: Any) -> list[tuple[float, bool]]:
        pairs: list[Pair] = []
        for _text, context, continuation in requests:
            room = self.context_length - len(continuation)
            pairs.append((context[-max(1, room) :], continuation[-(self.context_length - 1) :]))
        return [(likelihood.total, likelihood.greedy) for likelihood in self._likelihoods(pairs)]

    def _likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        return likelihoods(self.model, pairs, mode=self.mode)


def _to_sampling(options: dict[str, Any]) -> Sampling:
    """Convert the harness's generation options."""
    draws = bool(options.get("do_sample", False))
    return Sampling(
        max_new_tokens=int(options.get("max_gen_toks") or MAX_NEW_TOKENS),
        temperature=float(options.get("temperature") or 0.0) if draws else 0.0,
        top_p=float(options.get("top_p") or 1.0),
    )


def _truncate(text: str, stops: str | Sequence[str]) -> str:
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text
