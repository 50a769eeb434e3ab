"""Texts to token ids as the backbone's tokenizer computes them, with windows of long texts; needs no transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from experts.errors import Fault
from moe.data.text_checks import replace_surrogates


class TextEncoder:
    """Fills texts into the prompt template and encodes them.

    Args:
        path: the tokenizer as JSON.
        template: prompt template with the field `{text}`.
        max_length: tokens at which a text is truncated, special tokens included.
        truncation_side: side at which it is cut.

    Raises:
        Fault: if the file is not a tokenizer.
    """

    def __init__(
        self, path: Path, template: str, max_length: int, truncation_side: Literal["left", "right"] = "right"
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower type
            raise Fault(f"a tokenizer at {path}", str(error)[:160], "write the graph again") from error
        self.template = template
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length, direction=truncation_side)

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Return the token ids of each window (W), and the index of the text that it belongs to (W,)."""
        prompts = [self.template.replace("{text}", replace_surrogates(text)) for text in texts]
        ids: list[list[int]] = []
        index: list[int] = []
        for number, encoding in enumerate(self._tokenizer.encode_batch_fast(prompts)):
            for window in (encoding, *encoding.overflowing):
                ids.append(window.ids)
                index.append(number)
        return ids, np.asarray(index)
