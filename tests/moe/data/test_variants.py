"""Claims about which variants are asked for: exact shares, by label, the same each time, none of unlabelled rows."""

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from experts.errors import Fault
from moe.data.schema import AugmentSettings
from moe.data.variants import plan, read_variants

LABELS = [0] * 60 + [1] * 30 + [2] * 10
NO_SCORE = [False] * 100


def test_a_fifth_are_synonyms_as_in_the_paper() -> None:
    found = plan(LABELS, NO_SCORE, AugmentSettings())
    assert Counter(one.origin for one in found) == {"synonym": 60, "paraphrase": 240}
    assert Counter((one.row, one.number) for one in found) == Counter((r, k) for r in range(100) for k in (1, 2, 3))
    by_label = Counter(LABELS[one.row] for one in found if one.origin == "synonym")
    assert by_label == {0: 36, 1: 18, 2: 6}


@pytest.mark.parametrize(("share", "count"), [(0.5, 50), (1, 100), (2.5, 250), (9, 300), (None, 300)])
def test_max_share_is_a_share_of_the_originals_drawn_by_label(share: float | None, count: int) -> None:
    found = plan(LABELS, NO_SCORE, AugmentSettings(max_share=share))
    assert len(found) == count
    assert Counter(LABELS[one.row] for one in found) == {0: 0.6 * count, 1: 0.3 * count, 2: 0.1 * count}


def test_the_seed_decides_which() -> None:
    def found(seed: int) -> list[object]:
        return list(plan(LABELS, NO_SCORE, AugmentSettings(max_share=0.5, seed=seed)))

    assert found(1) == found(1)
    assert found(1) != found(2)


def test_a_row_with_neither_label_nor_score_gets_no_variant() -> None:
    found = plan([-1, -1, 0], [False, True, False], AugmentSettings(variants=1))
    assert [one.row for one in found] == [1, 2]
    assert plan([], [], AugmentSettings()) == []


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
        list(read_variants(path))
