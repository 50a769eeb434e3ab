"""Tests of `moe.data.lm_collator`: documents of a row stay apart, and each predicted token is one that was learned."""

from typing import Any

import pytest
import torch
from conftest import tiny_tokenizer
from torch import Tensor

from experts.errors import Fault
from moe.data.lm_collator import InstructionCollator, PretrainingCollator
from moe.model.lm_head import IGNORE_INDEX, next_token_labels

ROWS: list[dict[str, Any]] = [
    {"input_ids": [11, 12, 13, 14, 15], "lengths": [2, 3], "domain": "news"},
    {"input_ids": [21, 22, 23], "lengths": [3], "domain": "other"},
]


def test_positions_start_again_in_every_document_and_the_first_token_is_never_predicted() -> None:
    seen: list[Tensor] = []

    def mask_of(positions: Tensor) -> dict[str, Tensor | None]:
        seen.append(positions)
        return {"position_ids": positions, "attention_mask": None}

    batch = PretrainingCollator(tiny_tokenizer(), "causal", ["forum", "news"], mask_of)(ROWS)
    assert seen[0].tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 1]]
    assert batch["input_ids"].tolist() == [[11, 12, 13, 14, 15], [21, 22, 23, 0, 0]]
    ignored = IGNORE_INDEX
    assert batch["tokens"].tolist() == [[12, ignored, 14, 15, ignored], [22, 23, ignored, ignored, ignored]]
    assert batch["domain"].tolist() == [1, -1]
    assert "attention_mask" not in batch, "a mask of None is left out"


def test_rows_of_one_document_have_a_padding_mask() -> None:
    rows = [ROWS[1], {"input_ids": [9], "lengths": [1], "domain": "news"}]
    batch = PretrainingCollator(tiny_tokenizer(), "causal", ["news"], None)(rows)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def masked_batch(seed: int, rows: int = 200) -> tuple[dict[str, Tensor], Tensor]:
    """A batch with masked tokens, and the ids before."""
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = "[UNK]"
    ids = torch.randint(4, 30, (rows, 12), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -1] = 1, 2  # [CLS] and [SEP]
    torch.manual_seed(seed)
    collate = PretrainingCollator(tokenizer, "masked", ["news"], None)
    rows_of_ids = [{"input_ids": row, "lengths": [12], "domain": "news"} for row in ids.tolist()]
    return collate(rows_of_ids), ids


def test_masked_tokens_are_a_share_of_the_real_ones_and_never_special() -> None:
    batch, ids = masked_batch(seed=0)
    predicted = batch["tokens"] != IGNORE_INDEX
    assert torch.equal(batch["tokens"][predicted], ids[predicted])
    assert not predicted[:, 0].any()
    assert not predicted[:, -1].any()
    assert predicted[:, 1:-1].float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert torch.equal(batch["input_ids"][~predicted], ids[~predicted]), "other tokens stay as they are"
    masked = batch["input_ids"][predicted] == 3
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.08)


def test_masked_tokens_depend_on_the_seed_only() -> None:
    first, second, other = masked_batch(1)[0], masked_batch(1)[0], masked_batch(2)[0]
    assert torch.equal(first["tokens"], second["tokens"])
    assert not torch.equal(first["tokens"], other["tokens"])


def test_encoder_without_a_mask_token_is_refused() -> None:
    with pytest.raises(Fault, match="a tokenizer with a mask token, to pre-train an encoder; found none"):
        PretrainingCollator(tiny_tokenizer(), "masked", ["news"], None)


@pytest.mark.parametrize("seed", range(5))
def test_answers_are_predicted_and_prompts_read_in_every_row(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    rows: list[dict[str, Any]] = []
    for _ in range(6):
        length = int(torch.randint(2, 9, (), generator=random))
        begins = int(torch.randint(1, length, (), generator=random))
        ids = torch.randint(4, 99, (length,), generator=random).tolist()
        rows.append({"input_ids": ids, "begins": begins, "domain": "news"})
    batch = InstructionCollator(0, ["news"])(rows)
    for i, row in enumerate(rows):
        length, begins = len(row["input_ids"]), row["begins"]
        assert batch["attention_mask"][i].sum() == length
        assert batch["router_mask"][i].nonzero().flatten().tolist() == list(range(begins))
        predicted = batch["tokens"][i] != IGNORE_INDEX
        assert predicted.nonzero().flatten().tolist() == list(range(begins - 1, length - 1))
        assert batch["tokens"][i][predicted].tolist() == row["input_ids"][begins:]


def test_next_token_labels_cover_the_learned_tokens_only() -> None:
    ids = torch.tensor([[5, 6, 7]])
    assert next_token_labels(ids, torch.tensor([[1, 0, 1]])).tolist() == [[IGNORE_INDEX, 7, IGNORE_INDEX]]
    assert next_token_labels(ids, torch.zeros(1, 3)).tolist() == [[IGNORE_INDEX] * 3]
