"""A mixture as a model of EleutherAI's lm-evaluation-harness, so that any of its tasks can be put to it.

Needs `pip install 'finmoe[harness]'`. The harness asks, and counts; what is answered here is a prompt's likeliest
continuation and how probable a given one is. Our own tasks are `moe.qa`'s.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from moe.inference.generator import Generator, Sampling
from moe.inference.loading import check_routing, load_language_model
from moe.inference.scoring import Pair, likelihoods

NEW_TOKENS = 128
LONGEST = 2048
"""Tokens of a window where a backbone names no longest context."""
TokenizedRequest = tuple[tuple[str, str], list[int], list[int]]


@register_model("finmoe")
class FinMoE(TemplateLM):
    """`lm_eval.simple_evaluate(model=FinMoE("runs/roles/moe-instruct"), tasks=[…])`.

    Args:
        pretrained: the folder of a language model's mixture, or of one expert.
        routing: soft or hard.
        bare: the backbone alone, without any expert, to compare with.

    Raises:
        Fault: when there is no such model, or it cannot write.
    """

    def __init__(self, pretrained: str | Path, routing: str = "soft", bare: bool = False) -> None:
        super().__init__()
        check_routing(routing)
        self.model, template = load_language_model(Path(pretrained))
        self.hard, self.without = routing == "hard", tuple(self.model.bank.adapters) if bare else ()
        self.generator = Generator(self.model, template, hard=self.hard, chat=False)
        self.tokenizer = self.model.loaded_backbone.tokenizer
        self.context = self.generator.context_length or LONGEST

    @property
    def eot_token_id(self) -> int:
        """The end of text, which is also what an empty prompt is."""
        found = self.tokenizer.eos_token_id
        return int(self.tokenizer.pad_token_id if found is None else found)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; special tokens unless the harness says otherwise, as the backbone's tokenizer adds them."""
        whole = True if add_special_tokens is None else add_special_tokens
        ids: list[int] = self.tokenizer(string, add_special_tokens=whole)["input_ids"]
        return ids[:-1] if whole and len(ids) > 1 and ids[-1] in self._ends else ids

    @property
    def _ends(self) -> tuple[int | None, ...]:
        """What a tokenizer may put behind a text, which no continuation begins with."""
        return self.tokenizer.eos_token_id, self.tokenizer.sep_token_id

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat in the backbone's own template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Σ log p of whole texts, in windows of the context, each token asked for once."""
        found = []
        for (text,) in (one.args for one in requests):
            ids = self.tok_encode(text, add_special_tokens=False)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.context - 1, 1)
            pairs: list[Pair] = [make_disjoint_window(one) for one in windows]
            found.append(sum(one.total for one in self._likelihoods(pairs)))
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations, each up to the first of its stopping texts."""
        said = []
        for one in requests:
            context, options = cast(tuple[str, dict[str, Any]], one.args)
            sampling = _sampling(options)
            generator = Generator(self.model, "{text}", sampling, self.hard, chat=False)
            ids = self.tok_encode(context)[-max(1, self.context - sampling.new_tokens) :]
            with self.model.ablated(self.without):
                (written,) = generator.generate([ids])
            said.append(_until(written.text, options.get("until") or ()))
        return said

    def _loglikelihood_tokens(self, requests: list[TokenizedRequest], **_: Any) -> list[tuple[float, bool]]:
        pairs: list[Pair] = []
        for _text, context, continuation in requests:
            room = self.context - len(continuation)
            pairs.append((context[-max(1, room) :], continuation[-(self.context - 1) :]))
        return [(one.total, one.greedy) for one in self._likelihoods(pairs)]

    def _likelihoods(self, pairs: Sequence[Pair]) -> list[Any]:
        with self.model.ablated(self.without):
            return likelihoods(self.model, pairs, hard=self.hard)


def _sampling(options: dict[str, Any]) -> Sampling:
    """The harness's words for how tokens are chosen, in ours."""
    draws = bool(options.get("do_sample", False))
    temperature = float(options.get("temperature") or 0.0) if draws else 0.0
    return Sampling(int(options.get("max_gen_toks") or NEW_TOKENS), temperature, float(options.get("top_p") or 1.0))


def _until(text: str, stops: str | Sequence[str]) -> str:
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text
