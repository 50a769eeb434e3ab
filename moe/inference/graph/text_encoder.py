"""Texts to token ids as the backbone's tokenizer computes them, with windows of long texts; needs no transformers."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from experts.errors import Fault
from moe.data.text_checks import cut_target, replace_surrogates, segment_separator, target_limit


class TextEncoder:
    """Fills texts into the prompt template and encodes them.

    Args:
        path: the tokenizer as JSON.
        template: prompt template with the field `{text}`.
        max_length: tokens at which a text is truncated, special tokens included.
        truncation_side: side at which it is cut.
        overlap: tokens that two windows of a text share.

    Raises:
        Fault: if the file is not a tokenizer.
    """

    def __init__(
        self,
        path: Path,
        template: str,
        max_length: int,
        truncation_side: Literal["left", "right"] = "right",
        overlap: int = 0,
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower type
            raise Fault(f"a tokenizer at {path}", str(error)[:160], "write the graph again") from error
        self.template, self.max_length = template, max_length
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length, stride=overlap, strategy="only_first", direction=truncation_side)

    def encode(
        self, texts: Sequence[str], targets: Sequence[str | None] | None = None
    ) -> tuple[list[list[int]], np.ndarray]:
        """Return the token ids of each window (W), in the order of the texts, and the index of its text (W,).

        Args:
            targets: target of each text, or None; every window of a text has its whole target.
        """
        prompts: list[str | tuple[str, str]] = [self.template.replace("{text}", replace_surrogates(t)) for t in texts]
        given = {i: target for i, target in enumerate(targets or ()) if target}
        for i, second in zip(given, self._second_segments(list(given.values())), strict=True):
            prompts[i] = (str(prompts[i]), second)
        ids: list[list[int]] = []
        index: list[int] = []
        for number, encoding in enumerate(self._tokenizer.encode_batch_fast(prompts)):
            for window in (encoding, *encoding.overflowing):
                ids.append(window.ids)
                index.append(number)
        return ids, np.asarray(index, dtype=int)

    def long_targets(self, targets: Sequence[str | None]) -> np.ndarray:
        """Return which targets (B,) have too many tokens and are cut; see `moe.data.text_checks.target_limit`."""
        given = {i: replace_surrogates(target) for i, target in enumerate(targets) if target}
        cut = dict(zip(given, self._second_segments(list(given.values()), separator=""), strict=True))
        return np.array([i in given and len(cut[i]) < len(given[i]) for i in range(len(targets))])

    def _second_segments(self, targets: Sequence[str], separator: str | None = None) -> list[str]:
        """Return targets as second segments of pairs; see `moe.data.collator.second_segments`."""
        if not targets:
            return []
        plain = [replace_surrogates(target) for target in targets]
        single, pair = (self._tokenizer.num_special_tokens_to_add(pair) for pair in (False, True))
        before = segment_separator(single, pair) if separator is None else separator
        limit = target_limit(self.max_length, pair)
        encoded = self._untruncated.encode_batch(plain, add_special_tokens=False)
        return [before + cut_target(target, e.offsets, limit) for target, e in zip(plain, encoded, strict=True)]

    @cached_property
    def _untruncated(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.no_truncation()
        return tokenizer
