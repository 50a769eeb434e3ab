"""Requested variants: exact shares by label, deterministic, none of rows without label and score."""

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


def test_plan_variants_makes_a_fifth_synonyms_as_in_the_paper() -> None:
    requests = plan_variants(LABELS, NO_SCORE, AugmentSettings())
    assert Counter(request.origin for request in requests) == {"synonym": 60, "paraphrase": 240}
    assert [(request.row, request.number) for request in requests] == [(r, k) for r in range(100) for k in (1, 2, 3)]
    by_label = Counter(LABELS[request.row] for request in requests if request.origin == "synonym")
    assert all(by_label[label] == pytest.approx(count, abs=3) for label, count in {0: 36, 1: 18, 2: 6}.items())


@pytest.mark.parametrize(("share", "count"), [(0.5, 50), (1, 100), (2.5, 250), (9, 300), (None, 300)])
def test_plan_variants_caps_at_max_share_of_the_originals_by_label(share: float | None, count: int) -> None:
    requests = plan_variants(LABELS, NO_SCORE, AugmentSettings(max_share=share))
    assert len(requests) == count
    by_label = Counter(LABELS[request.row] for request in requests)
    assert all(
        by_label[label] == pytest.approx(part * count, abs=2) for label, part in {0: 0.6, 1: 0.3, 2: 0.1}.items()
    )


def test_plan_variants_of_a_larger_share_add_to_those_of_a_smaller() -> None:
    plans = [
        set(plan_variants(LABELS, NO_SCORE, AugmentSettings(max_share=share))) for share in (0.2, 0.5, 1, 1.7, None)
    ]
    for fewer, more in pairwise(plans):
        assert fewer < more
        assert sum(request.origin == "synonym" for request in fewer) == pytest.approx(0.2 * len(fewer), abs=3)


def test_plan_variants_gives_every_row_its_first_before_any_a_second() -> None:
    requests = plan_variants(LABELS, NO_SCORE, AugmentSettings(max_share=1))
    assert [(request.row, request.number) for request in requests] == [(row, 1) for row in range(100)]


def test_plan_variants_depends_on_the_seed() -> None:
    def planned(seed: int) -> list[object]:
        return list(plan_variants(LABELS, NO_SCORE, AugmentSettings(max_share=0.5, seed=seed)))

    assert planned(1) == planned(1)
    assert planned(1) != planned(2)


def test_plan_variants_skips_rows_without_label_and_score() -> None:
    requests = plan_variants([-1, -1, 0], [False, True, False], AugmentSettings(variants=1))
    assert [request.row for request in requests] == [1, 2]
    assert plan_variants([], [], AugmentSettings()) == []


@pytest.mark.parametrize(
    "settings",
    [{"variants": 0}, {"synonym_share": 1.1}, {"max_share": 0}, {"concurrency": 0}, {"retries": -1}, {"model": "x"}],
)
def test_augment_settings_refuse_impossible_values(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AugmentSettings.model_validate(settings)


@pytest.mark.parametrize("line", ["{}", "no json", '{"id": 3}', "\ud800"])
def test_read_augmented_rows_names_the_invalid_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "augmented.jsonl"
    path.write_bytes(b"\n" + line.encode("utf-8", "surrogatepass") + b"\n")
    with pytest.raises(Fault, match="line 2 of"):
        list(read_augmented_rows(path))
