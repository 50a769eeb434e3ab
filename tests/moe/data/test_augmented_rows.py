"""Claims about which variants are asked for: exact shares, by label, the same each time, none of unlabelled rows."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from experts.errors import Fault
from moe.data.augmented_rows import plan_variants, read_augmented_rows
from moe.data.schema import AugmentSettings

LABELS = [0] * 60 + [1] * 30 + [2] * 10
NO_SCORE = [False] * 100


def test_a_fifth_are_synonyms_as_in_the_paper() -> None:
    found = plan_variants(LABELS, NO_SCORE, AugmentSettings())
    assert Counter(one.origin for one in found) == {"synonym": 60, "paraphrase": 240}
    assert Counter((one.row, one.number) for one in found) == Counter((r, k) for r in range(100) for k in (1, 2, 3))
    by_label = Counter(LABELS[one.row] for one in found if one.origin == "synonym")
    assert all(by_label[label] == pytest.approx(count, abs=3) for label, count in {0: 36, 1: 18, 2: 6}.items())


@pytest.mark.parametrize(("share", "count"), [(0.5, 50), (1, 100), (2.5, 250), (9, 300), (None, 300)])
def test_max_share_is_a_share_of_the_originals_drawn_by_label(share: float | None, count: int) -> None:
    found = plan_variants(LABELS, NO_SCORE, AugmentSettings(max_share=share))
    assert len(found) == count
    by_label = Counter(LABELS[one.row] for one in found)
    assert all(
        by_label[label] == pytest.approx(part * count, abs=2) for label, part in {0: 0.6, 1: 0.3, 2: 0.1}.items()
    )


def test_a_larger_share_asks_for_the_same_and_more() -> None:
    plans = [
        set(plan_variants(LABELS, NO_SCORE, AugmentSettings(max_share=share))) for share in (0.2, 0.5, 1, 1.7, None)
    ]
    for fewer, more in pairwise(plans):
        assert fewer < more
        assert sum(one.origin == "synonym" for one in fewer) == pytest.approx(0.2 * len(fewer), abs=3)


def test_every_row_gets_its_first_variant_before_any_gets_a_second() -> None:
    found = plan_variants(LABELS, NO_SCORE, AugmentSettings(max_share=1))
    assert [(one.row, one.number) for one in found] == [(row, 1) for row in range(100)]


def test_the_seed_decides_which() -> None:
    def found(seed: int) -> list[object]:
        return list(plan_variants(LABELS, NO_SCORE, AugmentSettings(max_share=0.5, seed=seed)))

    assert found(1) == found(1)
    assert found(1) != found(2)


def test_a_row_with_neither_label_nor_score_gets_no_variant() -> None:
    found = plan_variants([-1, -1, 0], [False, True, False], AugmentSettings(variants=1))
    assert [one.row for one in found] == [1, 2]
    assert plan_variants([], [], AugmentSettings()) == []


@pytest.mark.parametrize(
    "wrong",
    [{"variants": 0}, {"synonym_share": 1.1}, {"max_share": 0}, {"concurrency": 0}, {"retries": -1}, {"model": "x"}],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AugmentSettings.model_validate(wrong)


@pytest.mark.parametrize("line", ["{}", "no json", '{"id": 3}', "\ud800"])
def test_a_line_that_is_no_variant_is_told(line: str, tmp_path: Path) -> None:
    path = tmp_path / "augmented.jsonl"
    path.write_bytes(b"\n" + line.encode("utf-8", "surrogatepass") + b"\n")
    with pytest.raises(Fault, match="line 2 of"):
        list(read_augmented_rows(path))
