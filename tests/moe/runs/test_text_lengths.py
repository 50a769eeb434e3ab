"""Lengths of a run's training texts: `max_length: auto`, one number for all stages, and what is truncated."""

from pathlib import Path

import pytest
from conftest import Make, made_up_rows, write_csv

from experts.errors import Fault
from experts.expert_io import read_expert
from moe.checkpoints.mixture import read_card
from moe.config.messages import ConfigFault
from moe.config.run import load_run
from moe.inference.load_mixture import load_mixture
from moe.model.backbone import BackboneSettings
from moe.runs.model_ref import resolve
from moe.runs.text_lengths import TextLengths, auto_length, format_cuts, measure_cut
from moe.training.expert_steps import train_domain
from moe.training.steps import merge_experts

AUTO = {"max_length": "auto"}


def lengthen(tmp_path: Path, domain: str, times: int) -> None:
    """Write the domain's file with texts of several times as many words."""
    rows = made_up_rows(domain)
    write_csv(tmp_path / "data" / f"{domain}.csv", [row | {"text": " ".join([row["text"]] * times)} for row in rows])


def test_auto_reads_95_percent_of_every_domain_in_multiples_of_8() -> None:
    short, long = {10: 990, 300: 10}, {50: 18, 70: 1, 90: 1}
    assert auto_length({"a": short}, None) == 32
    assert auto_length({"a": short, "b": long}, None) == 72, (
        "a small domain of long texts counts as much as a large one"
    )
    assert auto_length({"b": long}, 64) == 64
    assert auto_length({"b": {4000: 10}}, 8192) == 512


def test_cut_counts_texts_and_tokens_beyond_the_length() -> None:
    cut = measure_cut({10: 6, 30: 2, 40: 2}, 20)
    assert (cut.texts, cut.cut) == (10, 4)
    assert cut.lost == (2 * 10 + 2 * 20) / 200
    assert measure_cut({10: 6}, 10).cut == 0


COUNTS = {"calls": {40: 66, 160: 264}, "news": {20: 100}, "posts": {20: 99, 200: 1}}


def cuts(length: int, windows: int = 1) -> list[str]:
    """Lines of all domains in `COUNTS`."""
    return format_cuts(TextLengths(COUNTS), COUNTS, BackboneSettings(max_length=length, windows=windows))


def test_cut_lines_name_the_domains_that_lose_something_and_the_remedy() -> None:
    lines = cuts(96)
    assert lines[0].startswith("calls: 264 of 330 training texts (80%) are longer than 96 tokens; 38% of")
    assert lines[0].endswith("raise backbone.max_length (95% fit in 160) or backbone.windows")
    assert len(lines) == 2
    assert "raise" not in lines[1], "a single long text is no reason to read all further"
    assert cuts(200) == ["none of 530 training texts is longer than 200 tokens"]


def test_cut_lines_count_what_windows_leave_unread() -> None:
    assert "longer than 96 tokens and read in windows, at most 2 each; 0% of" in cuts(96, windows=2)[0]
    assert "raise" not in cuts(96, windows=2)[0]
    assert "at most 2 each; 29% of" in cuts(64, windows=2)[0], "64 and 64 - 2 - 16 new tokens are read"


def test_auto_is_one_number_for_all_stages_and_written_everywhere(make_work: Make, tmp_path: Path) -> None:
    lengthen(tmp_path, "forum", 5)
    work = make_work(backbone=AUTO)
    train_domain(work, "news")
    length = work.run.backbone.resolved_length
    assert length > 32
    assert length % 8 == 0
    later = make_work(backbone=AUTO)  # another command
    train_domain(later, "forum")
    merge_experts(make_work(backbone=AUTO))
    for name in ("news", "forum"):
        card = read_expert(work.expert_folder(name)).card
        assert card is not None
        assert card.max_length == length
        assert load_run(work.expert_folder(name) / "config.yaml").backbone.max_length == length
    assert read_card(work.out / "moe-init").backbone_settings.max_length == length
    assert load_run(work.out / "moe-init" / "config.yaml").backbone.max_length == length
    assert load_mixture(resolve(work.out / "moe-init")).max_length == length


def test_auto_stays_for_a_run_whose_rows_change(
    make_work: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = make_work(backbone=AUTO).resolve_length()
    lengthen(tmp_path, "forum", 5)
    longer = make_work(backbone=AUTO).resolve_length()
    assert longer > before, "no expert was trained yet"
    work = make_work(backbone=AUTO)
    work.expert_folder("news").mkdir(parents=True)
    lengthen(tmp_path, "forum", 1)
    capsys.readouterr()
    assert work.resolve_length() == longer
    assert f"auto would be {before} tokens" in capsys.readouterr().err


def test_auto_without_training_texts_is_refused_as_a_number(make_work: Make) -> None:
    with pytest.raises(Fault, match="auto"):
        _ = make_work(backbone=AUTO).run.backbone.resolved_length


@pytest.mark.parametrize("length", [7, "all", True, 12.5, None])
def test_max_length_is_auto_or_a_number(make_work: Make, length: object) -> None:
    with pytest.raises(ConfigFault, match=r"backbone\.max_length: expected (auto, or )?a number"):
        make_work(backbone={"max_length": length})


def test_a_length_that_the_backbone_does_not_read_is_refused_before_training(make_work: Make) -> None:
    with pytest.raises(Fault, match="at most 64"):
        train_domain(make_work(backbone={"max_length": 65}), "news")


def test_a_stage_says_what_is_truncated(make_work: Make, capsys: pytest.CaptureFixture[str]) -> None:
    train_domain(make_work(backbone={"max_length": 8}), "news")
    assert "news: 54 of 54 training texts (100%) are longer than 8 tokens" in capsys.readouterr().err


def test_lengths_are_counted_once(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = make_work().cut_lines()
    monkeypatch.setattr("moe.runs.text_lengths.count_tokens", None)
    assert make_work().cut_lines() == lines


def test_a_stage_of_one_domain_counts_no_texts_of_others(make_work: Make, tmp_path: Path) -> None:
    (tmp_path / "data" / "forum.csv").unlink()
    train_domain(make_work(), "news")


def test_broken_lengths_are_counted_again(make_work: Make) -> None:
    work = make_work(backbone=AUTO)
    length = work.resolve_length()
    (file,) = (work.out / "data").glob("lengths-*.json")
    for content in ("{", "[]", '{"special": "x"}'):
        file.write_text(content)
        assert make_work(backbone=AUTO).resolve_length() == length
