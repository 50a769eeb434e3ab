"""Drift: files distributed like the validation rows are rarely called unlike, others are, month by month."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Make, made_up_rows, write_csv
from mixtures import save_random_mixture
from rich.console import Console
from scipy.stats import ks_2samp
from sklearn.decomposition import PCA

from experts.atomic_io import check_manifest, read_json
from experts.errors import Fault
from experts.json_io import to_json
from experts.reused import SEAL, write_sealed_json
from moe.drift import comparison
from moe.drift.comparison import FEW, MEASURES, UNLIKE, compare_features
from moe.drift.drift import drift, drift_view
from moe.drift.fit import fit_reference, fit_state_distribution
from moe.drift.reference import DRIFT, TENSORS, DriftFeatures, read_reference
from moe.drift.timeline import month_of, read_dated_texts
from moe.inference.text_io import TextSource
from moe.integrity import verify
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace

EXPERTS = ("news", "forum", "macro")


def features(rows: int, seed: int, **shift: float) -> DriftFeatures:
    """Features of made-up texts, each measure shifted by the given amount."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet([1 + shift.get("shares", 0), 1, 1], rows)
    confidence = 1 / (1 + np.exp(-random.normal(1 - shift.get("confidence", 0), 1, rows)))
    return DriftFeatures(shares, confidence, random.chisquare(8, rows) + shift.get("distance", 0))


def test_compare_keeps_its_false_alarm_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "PERMUTATIONS", 199)
    verdicts = [compare_features(features(40, 2 * i), features(60, 2 * i + 1), EXPERTS).verdict for i in range(150)]
    assert verdicts.count(UNLIKE) <= 14  # of 150 at a rate of at most 5 %; 15 or more have probability 0.01


@pytest.mark.parametrize(("name", "shift"), [("shares", 3.0), ("confidence", 1.0), ("distance", 4.0)])
def test_compare_detects_a_shift_by_the_shifted_measure_only(name: str, shift: float) -> None:
    result = compare_features(features(150, 1, **{name: shift}), features(200, 2), EXPERTS)
    assert result.verdict == UNLIKE
    assert [measure for measure, test in result.measures.items() if test.unlike] == [name]
    assert result.measures[name].value > result.measures[name].limit


def test_measures_equal_their_textbook_formulas() -> None:
    ours, theirs = features(70, 1), features(50, 2)
    ours.confidence[:20] = theirs.confidence[:20] = 0.5  # ties
    samples = np.arange(70)[None], np.arange(70, 120)[None]
    (gap,) = MEASURES["confidence"](ours, theirs)(*samples)
    assert gap == pytest.approx(ks_2samp(ours.confidence, theirs.confidence).statistic)
    p, q = ours.shares.mean(0), theirs.shares.mean(0)
    (index,) = MEASURES["shares"](ours, theirs)(*samples)
    assert index == pytest.approx(((p - q) * np.log(p / q)).sum())


def test_compare_gives_few_rows_no_verdict_and_a_single_expert_no_shares() -> None:
    assert compare_features(features(29, 1), features(60, 2), EXPERTS).verdict == FEW
    single = DriftFeatures(np.ones((60, 1)), features(60, 1).confidence, features(60, 1).distance)
    assert set(compare_features(single, single, ("news",)).measures) == {"confidence", "distance"}


def test_distance_equals_scikit_learns_and_is_large_off_the_training_directions() -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(400, 70)) * np.geomspace(3, 0.05, 70)
    space = fit_state_distribution(states, np.array(["news"] * 400), ["news"])
    centered = states - states.mean(0)
    precision = PCA(64, svd_solver="full").fit(centered).get_precision()
    expected = np.sqrt(np.einsum("nd,de,ne->n", centered, precision, centered))
    np.testing.assert_allclose(space.distance(states), expected, rtol=1e-6)
    outlier = states[:1].copy()
    outlier[0, -1] += 3  # a direction in which training texts hardly vary
    assert space.distance(outlier) > 3 * space.distance(states).max()


def test_distance_is_to_the_nearest_domain() -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(200, 5)) + np.repeat([[0.0], [50.0]], 100, axis=0)
    space = fit_state_distribution(states, np.array(["news"] * 100 + ["forum"] * 100), ["news", "forum"])
    assert space.distance(states).max() < 6
    assert space.distance(np.full((1, 5), 25.0)) > 20


@pytest.mark.parametrize(
    ("value", "date_format", "month"),
    [
        ("2024-03-31", None, "2024-03"),
        ("2024-03-31T23:59:00Z", None, "2024-03"),
        ("2024-03", None, "2024-03"),
        (datetime(2023, 12, 1, 5), None, "2023-12"),
        ("31.03.2024", "%d.%m.%Y", "2024-03"),
        ("03/04/2024", None, None),  # ambiguous: not guessed
        (None, None, None),
        ("", None, None),
    ],
)
def test_month_of_parses_dates_and_never_guesses(value: object, date_format: str | None, month: str | None) -> None:
    assert month_of(value, date_format) == month


@pytest.fixture
def work(make_work: Make) -> Workspace:
    return make_work(domains={name: {"split": {"own": False, "ratios": [40, 40, 20]}} for name in ("news", "forum")})


def test_drift_calls_held_out_text_alike_and_another_domain_unlike_by_month(work: Workspace, tmp_path: Path) -> None:
    folder = save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work)
    with pytest.raises(Fault, match="--fit"):
        drift(folder, TextSource(file=tmp_path / "none.csv"), tmp_path)
    fitted = fit_reference(work, folder)
    assert fitted.held == {"news": 36, "forum": 36}
    check_manifest(folder, "a mixture")
    assert verify(folder).folders[0].remarks == []
    held_out = [*work.rows("test")["text"]]
    alike = write_csv(tmp_path / "alike.csv", [{"text": text} for text in held_out])
    result = drift(folder, TextSource(file=alike), tmp_path / "alike")
    assert (result.whole.verdict, result.whole.rows) == ("alike", 36)
    assert (result.months, result.undated) == ({}, None)
    old = [{"text": text, "date": "2024-01-05"} for text in held_out]
    new = [{"text": row["text"], "date": "2024-02-05"} for row in made_up_rows("macro")]
    mixed = write_csv(tmp_path / "mixed.csv", [*old, *new, {"text": "", "date": ""}, {"text": "sales", "date": "soon"}])
    result = drift(folder, TextSource(file=mixed), tmp_path / "mixed")
    verdicts = {name: month.verdict for name, month in result.months.items()}
    assert verdicts == {"2024-01": "alike", "2024-02": UNLIKE}
    assert (result.rejected, result.undated, result.whole.verdict) == (1, 1, UNLIKE)
    for name, report in (("alike", None), ("mixed", result)):
        assert (tmp_path / name / "drift.png").read_bytes().startswith(b"\x89PNG")
        assert report is None or read_json(tmp_path / name / "drift.json") == to_json(report)
    console = Console(width=160, record=True)
    console.print(drift_view(result))
    output = console.export_text()
    assert "rows skipped because they have no readable text: 1" in output
    assert "2024-02" in output


def test_drift_refuses_what_cannot_be_compared(work: Workspace, tmp_path: Path) -> None:
    folder = save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work)
    fit_reference(work, folder)
    file = write_csv(tmp_path / "few.csv", [{"text": "profit rose", "day": "31.12.2024"}])
    options: tuple[tuple[dict[str, Any], str], ...] = (
        ({"date_column": "date"}, "a column 'date' in few.csv; found the columns"),
        ({"date_column": "day"}, "--date-format"),
        ({"domain": "sports"}, "one of the domains news, forum"),
    )
    for given, message in options:
        with pytest.raises(Fault, match=message):
            drift(folder, TextSource(file=file), tmp_path / "out", **given)
    with pytest.raises(Fault, match="a column 'words'"):
        drift(folder, TextSource(file=file, text_column="words"), tmp_path / "out")
    report = drift(folder, TextSource(file=file), tmp_path / "out", date_column="day", date_format="%d.%m.%Y")
    assert report.months["2024-12"].rows == 1
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-8])
    with pytest.raises(Fault, match="another file or none"):
        read_reference(folder)
    fit_reference(work, folder)
    card = read_json(folder / DRIFT)
    (folder / DRIFT).write_text('{"format": 1}')
    with pytest.raises(Fault, match="a valid reference"):
        read_reference(folder)
    write_sealed_json(folder / DRIFT, {key: value for key, value in card.items() if key != SEAL} | {"model": "0"})
    with pytest.raises(Fault, match="one of another model"):
        read_reference(folder)


def test_dates_in_a_column_date_that_cannot_be_parsed_are_refused_with_an_example(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "Date": f"{n + 1}.01.2024"} for n in range(3)]
    path = write_csv(tmp_path / "posts.csv", rows)
    with pytest.raises(Fault, match=r"none that can be parsed, e\.g\. '1\.01\.2024'\. Set --date-format"):
        read_dated_texts(TextSource(file=path))
    assert read_dated_texts(TextSource(file=path), date_format="%d.%m.%Y").months == ["2024-01"] * 3
    ignored = read_dated_texts(TextSource(file=path), date_column="")
    assert (ignored.months, ignored.dated) == ([None] * 3, False)


def test_a_missing_date_column_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "posts.csv", [{"text": "up", "day": "2024-01-01"}])
    with pytest.raises(Fault, match=r"Did you mean day\?"):
        read_dated_texts(TextSource(file=path), date_column="days")
    assert read_dated_texts(TextSource(file=path), date_column="Day").months == ["2024-01"]


def test_texts_of_another_encoding_and_separator_are_read_with_these_options(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_bytes("text^date\n股价上涨^2024-01-05\n".encode("gb18030"))
    with pytest.raises(Fault, match="a column 'text'"):
        read_dated_texts(TextSource(file=path))
    dated = read_dated_texts(TextSource(file=path, encoding="gb18030", separator="^"))
    assert (dated.texts, dated.months) == (["股价上涨"], ["2024-01"])
