"""Tasks with a target: reading, validation, splits by text, and pairs of tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LABELS, Make, entity_tasks, tiny_tokenizer, write_csv
from pydantic import ValidationError

from experts.domain import Domain, LabelSpace
from experts.errors import Fault
from moe.data.collator import Collator, encode_windows
from moe.data.formats.readers import read_records
from moe.data.prepare import PreparedTask, prepare_task
from moe.data.schema import Columns, DataSettings, Reject, Row, TaskSettings
from moe.data.splitting.settings import SPLITS
from moe.data.splitting.splits import number_texts, split_by_hash, split_texts
from moe.data.text_checks import contains_target, cut_target, segment_separator, target_limit
from moe.data.validation import validate_records

TASK = {"labels": LABELS, "columns": {"target": "entity"}}


def rows_of(*targets: object, **over: Any) -> list[dict[str, object]]:
    return [{"id": "a", "text": "profit rose as bank fell", "entity": x, "label": "neutral"} | over for x in targets]


def validated(path: Path, rows: list[dict[str, Any]]) -> list[Any]:
    write_csv(path, rows)
    task = TaskSettings.model_validate(TASK)
    return list(validate_records(read_records(path, task.columns), task))


def prepare(tmp_path: Path, rows: list[dict[str, Any]], over: dict[str, Any], **data: Any) -> PreparedTask:
    path = write_csv(tmp_path / "rows.csv", rows)
    settings = {"near_duplicates": None, "max_rejected": 1.0} | data
    task = TaskSettings.model_validate(TASK | over)
    return prepare_task(path, task, DataSettings.model_validate(settings), "news", "entities", tmp_path / "out")


def sides(prepared: PreparedTask) -> dict[str, set[str]]:
    return {split: set(prepared.splits[split]["text"]) for split in SPLITS}


def shared_texts(sides: dict[str, set[str]]) -> set[str]:
    train, validation, test = sides.values()
    return train & validation | train & test | validation & test


def many_rows(texts: int = 60) -> list[dict[str, Any]]:
    """One to three targets a text, with labels that follow from its number."""
    return [
        {"id": f"{i}-{k}", "text": f"text number {i}", "entity": f"company {k}", "label": LABELS[(i + k) % 3]}
        for i in range(texts)
        for k in range(1 + i % 3)
    ]


def test_columns_require_the_target_column_even_under_its_own_name(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"text": "profit rose"}])
    with pytest.raises(Fault, match="target"):
        read_records(path, Columns(target="target"))


def test_columns_leave_a_column_of_that_name_to_files_without_targets(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"text": "profit rose", "target": "12%", "entity": "bank"}])
    assert next(read_records(path, others=["target"])).values["target"] == "12%"
    assert next(read_records(path, Columns(target="entity"))).values["target"] == "bank"


@pytest.mark.parametrize("blank", ["", "  ", "\u200b"])
def test_validation_rejects_a_blank_target_with_its_line(tmp_path: Path, blank: str) -> None:
    good, bad = validated(tmp_path / "a.csv", rows_of("bank", blank))
    assert isinstance(good, Row)
    assert good.target == "bank"
    assert (bad.line, bad.reason) == (3, "missing target")


@pytest.mark.parametrize(
    ("value", "reason"), [("NaN", "missing target"), ("7", "target is not a string"), ("null", "missing target")]
)
def test_validation_rejects_a_target_that_is_no_string(tmp_path: Path, value: str, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "profit rose", "entity": {value}, "label": "neutral"}}\n')
    task = TaskSettings.model_validate(TASK)
    (reject,) = validate_records(read_records(path, task.columns), task)
    assert isinstance(reject, Reject)
    assert reject.reason == reason


def test_validation_lets_rows_of_one_text_share_an_id_with_different_targets(tmp_path: Path) -> None:
    results = validated(tmp_path / "a.csv", [*rows_of("profit", "bank", "bank"), *rows_of("bank", label="positive")])
    assert [type(result).__name__ for result in results] == ["Row", "Row", "Duplicate", "Reject"]
    assert results[-1].reason == "repeated id with different content"


@pytest.mark.parametrize("split", [{}, {"by_text": True}, {"folds": 4, "fold": 1}])
def test_split_keeps_all_rows_of_a_text_on_one_side(tmp_path: Path, split: dict[str, Any]) -> None:
    prepared = prepare(
        tmp_path, many_rows(), {"split": split if "folds" in split else split | {"ratios": [60, 20, 20]}}
    )
    by_side = sides(prepared)
    assert not shared_texts(by_side)
    assert sum(len(prepared.splits[name]) for name in SPLITS) == len(many_rows())
    assert all(len(texts) >= 3 for texts in by_side.values())


def test_split_of_rows_separates_texts_without_targets(tmp_path: Path) -> None:
    over = {"columns": {}, "split": {"ratios": [60, 20, 20]}}
    assert shared_texts(sides(prepare(tmp_path, many_rows(), over))), "then the claims above prove nothing"


def test_split_stratifies_texts_by_the_labels_of_all_their_rows() -> None:
    texts = np.repeat(np.arange(200), 2)
    disagree = np.arange(200) % 4 == 0
    labels = np.stack([np.zeros(200, dtype=int), np.where(disagree, 2, 0)], axis=1).ravel()
    settings = TaskSettings.model_validate({"split": {"ratios": [80, 10, 10]}}).split
    splits, removed = split_texts(labels, np.full(400, -1), texts, settings)
    assert removed == 0
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 320, "validation": 40, "test": 40}
    for rows in splits.values():
        assert np.mean(labels[rows] == 2) == pytest.approx(0.125, abs=0.03)


def test_split_of_the_file_keeps_a_text_on_its_most_held_out_side(tmp_path: Path) -> None:
    rows = many_rows()
    for i, row in enumerate(rows):
        row["split"] = "test" if i % 7 == 0 else "validation" if i % 7 == 1 else "train"
    prepared = prepare(tmp_path, rows, {})
    assert not shared_texts(sides(prepared))
    given = {name: {row["id"] for row in rows if row["split"] == name} for name in SPLITS}
    assert set(prepared.splits["test"]["id"]) == given["test"], "no test row is removed or added"
    assert set(prepared.splits["train"]["id"]) < given["train"]
    total = sum(len(prepared.splits[name]) for name in SPLITS)
    assert prepared.report.other_side == len(rows) - total > 0


def test_split_removes_near_duplicates_of_a_text_with_all_its_rows(tmp_path: Path) -> None:
    words = "the quarterly profit of the bank rose again while sales of the maker fell by a tenth in may"
    rows = [
        {"id": f"{split}{x}", "text": text, "entity": x, "label": "neutral", "split": split}
        for text, split in (
            (words, "train"),
            (words + "!", "test"),
            ("other text", "train"),
            ("and another", "validation"),
        )
        for x in ("bank", "maker")
    ]
    for row in rows[4:6]:
        row["id"] += "other"
    prepared = prepare(tmp_path, rows, {}, near_duplicates=0.85)
    assert set(prepared.splits["train"]["text"]) == {"other text"}
    assert prepared.report.other_side + sum(prepared.report.near_duplicates.values()) == 2


def test_split_by_text_agrees_between_files_and_follows_the_ratios() -> None:
    settings = TaskSettings.model_validate({"split": {"ratios": [80, 10, 10], "by_text": True}}).split
    texts = [f"headline {i} about a company" for i in range(4000)]
    splits = split_by_hash(texts, settings)
    assert len(splits["test"]) == pytest.approx(400, abs=70)
    assert len(splits["validation"]) == pytest.approx(400, abs=70)
    some = [f"  HEADLINE {i} about a company " for i in range(3999, -1, -7)]
    test = {texts[i] for i in splits["test"]}
    for position in split_by_hash(some, settings)["test"]:
        assert some[position].strip().replace("HEADLINE", "headline") in test
    other = split_by_hash(texts, settings.model_copy(update={"seed": 14}))
    assert len(set(other["test"]) & set(splits["test"])) < 100


def test_split_by_text_is_refused_with_folds() -> None:
    with pytest.raises(ValidationError, match="by_text"):
        TaskSettings.model_validate({"split": {"by_text": True, "folds": 5}})


def test_numbers_of_texts_ignore_case_white_space_and_width() -> None:
    assert number_texts(["A b", "a  B ", "c", "Ａ b"]).tolist() == [0, 0, 1, 0]


def test_ask_needs_a_field_for_the_target_and_only_then() -> None:
    with pytest.raises(ValidationError, match=r"must contain \{target\}"):
        TaskSettings.model_validate(TASK | {"ask": "{text}?"})
    with pytest.raises(ValidationError, match=r"set columns\.target"):
        TaskSettings.model_validate({"labels": LABELS, "ask": "{text} for {target}?"})


def test_question_names_its_target_and_leaves_braces_of_the_text_alone(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", rows_of("{text}", text="profit {target} rose"))
    task = TaskSettings.model_validate(TASK | {"ask": "{text} Is it good for {target}? {choices}"})
    (row,) = validate_records(read_records(path, task.columns), task)
    assert isinstance(row, Row)
    assert row.prompt == "profit {target} rose Is it good for {text}? negative, neutral or positive"


def test_label_space_answers_with_the_target_by_the_domain_s_first_task_of_its_kind() -> None:
    news = Domain("news", {"entities": LABELS, "news": LABELS}, target_tasks=("entities",))
    space = LabelSpace.from_domains([Domain("forum", {"forum": LABELS}), news])
    assert space.default_task("news") == "news"
    assert space.default_task("news", target=True) == "entities"
    assert space.default_task("forum", target=True) == "entities"
    assert space.default_task(None) == "forum"
    assert LabelSpace.from_domains([Domain("forum", {"forum": LABELS})]).default_task("forum", target=True) is None


def test_run_declares_the_target_tasks_of_its_domains(make_work: Make) -> None:
    run = make_work(domains=entity_tasks()).run
    assert run.label_space().target_tasks == {"entities"}
    assert [domain.target_tasks for domain in run.domain_list()] == [("entities",), ()]


def decoded(ids: list[int]) -> str:
    return tiny_tokenizer().decode(ids)


def test_encoding_reads_a_target_as_the_second_segment() -> None:
    ids, index = encode_windows(["profit rose", "bank fell"], tiny_tokenizer(), "{text} today", 16, [None, "the bank"])
    assert [decoded(row) for row in ids] == [
        "[CLS] profit rose today [SEP]",
        "[CLS] bank fell today [SEP] the bank [SEP]",
    ]
    assert index.tolist() == [0, 1]


def test_encoding_truncates_the_text_and_never_a_short_target() -> None:
    text = " ".join(["profit rose the today again"] * 5)
    (ids,), _ = encode_windows([text], tiny_tokenizer(), "{text}", 12, ["bank"])
    assert len(ids) == 12
    assert decoded(ids).endswith("[SEP] bank [SEP]")


@pytest.mark.parametrize("max_length", [8, 9, 16])
def test_encoding_cuts_a_target_of_more_than_half_of_the_tokens(max_length: int) -> None:
    long = " ".join(["bank"] * 50)
    for text in ("profit", " ".join(["profit rose"] * 20), " "):
        (ids,), _ = encode_windows([text], tiny_tokenizer(), "{text}", max_length, [long])
        assert len(ids) <= max_length
        assert decoded(ids).count("bank") == target_limit(max_length, 3)


def test_encoding_repeats_the_target_in_every_window() -> None:
    text = " ".join(["profit rose the today again"] * 5)
    ids, index = encode_windows([text, text], tiny_tokenizer(), "{text}", 12, ["bank", None], overflow=True)
    assert len(ids) > 4
    assert all(decoded(row).endswith("[SEP] bank [SEP]") == (i == 0) for row, i in zip(ids, index, strict=True))
    assert (np.diff(index) >= 0).all()


def test_collator_pads_texts_with_and_without_targets_into_one_batch() -> None:
    space = LabelSpace.from_domains([Domain("news", {"news": LABELS})])
    collate = Collator(tiny_tokenizer(), "{text}", 16, space, ["news"])
    row = {"text": "profit rose", "score": None, "label": 0, "task": "news", "domain": "news"}
    batch = collate([row | {"target": "the bank"}, row, row | {"target": None}])
    assert batch["attention_mask"].sum(1).tolist() == [7, 4, 4]
    assert batch["input_ids"][1].tolist() == [*collate([row])["input_ids"][0].tolist(), 0, 0, 0]
    assert collate.lengths(["profit rose"] * 2, ["the bank", None]).tolist() == [7, 4]


def test_cut_target_ends_with_a_token() -> None:
    assert cut_target("bank of the", [(0, 4), (5, 7), (8, 11)], 2) == "bank of"
    assert cut_target("bank", [(0, 4)], 1) == "bank"
    assert cut_target("", [], 1) == ""


def test_target_limit_leaves_tokens_for_the_text() -> None:
    for length in range(8, 40):
        for special in (0, 2, 3, 4):
            assert 1 <= target_limit(length, special) <= length - special - 1


def test_separator_is_for_tokenizers_without_one_of_their_own() -> None:
    assert segment_separator(2, 3) == ""
    assert segment_separator(0, 0) == segment_separator(1, 1) == "\n"


@pytest.mark.parametrize(
    ("text", "target", "contained"),
    [
        ("Apple gains as Microsoft slips", "microsoft", True),
        ("ＡＰＰＬＥ gains", "Apple", True),
        ("Johnson &  Johnson gains", "Johnson & Johnson", True),
        ("贵州茅台大涨", "茅台", True),
        ("Apple gains", "Google", False),
    ],
)
def test_contains_target_ignores_case_and_white_space(text: str, target: str, contained: bool) -> None:
    assert contains_target(text, target) is contained
