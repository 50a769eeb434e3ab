"""Claims about drift: what is like validation rows is rarely called unlike, what is not is, month by month."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from conftest import Make, made_up_rows, write_csv
from mixtures import written
from rich.console import Console
from scipy.stats import ks_2samp
from sklearn.decomposition import PCA

from experts.atomic_io import check_manifest, read_json
from experts.errors import Fault
from moe.drift import drift as drifting
from moe.drift.drift import FEW, MEASURES, UNLIKE, compare_features, drift, drift_view
from moe.drift.fit import fit_reference, fit_state_distribution
from moe.drift.reference import DRIFT, TENSORS, DriftFeatures, read_reference
from moe.drift.timeline import DriftRequest, month_of
from moe.integrity import verify
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace

EXPERTS = ("news", "forum", "macro")


def seen(rows: int, seed: int, **shift: float) -> DriftFeatures:
    """Texts as a made-up model takes them, each measure shifted by so much."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet([1 + shift.get("shares", 0), 1, 1], rows)
    confidence = 1 / (1 + np.exp(-random.normal(1 - shift.get("confidence", 0), 1, rows)))
    return DriftFeatures(shares, confidence, random.chisquare(8, rows) + shift.get("distance", 0))


def test_what_is_like_validation_rows_is_called_unlike_as_seldom_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drifting, "PERMUTATIONS", 199)
    verdicts = [compare_features(seen(40, 2 * i), seen(60, 2 * i + 1), EXPERTS)["verdict"] for i in range(150)]
    assert verdicts.count(UNLIKE) <= 14  # of 150 at one in twenty or less; 15 and more are one chance in a hundred


@pytest.mark.parametrize(("name", "shift"), [("shares", 3.0), ("confidence", 1.0), ("distance", 4.0)])
def test_what_is_shifted_is_called_unlike_by_the_measure_that_was_shifted(name: str, shift: float) -> None:
    found = compare_features(seen(150, 1, **{name: shift}), seen(200, 2), EXPERTS)
    assert found["verdict"] == UNLIKE
    assert [one for one, its in found["measures"].items() if its["unlike"]] == [name]
    assert found["measures"][name]["value"] > found["measures"][name]["limit"]


def test_measures_are_those_of_the_books() -> None:
    ours, theirs = seen(70, 1), seen(50, 2)
    ours.confidence[:20] = theirs.confidence[:20] = 0.5  # ties
    places = np.arange(70)[None], np.arange(70, 120)[None]
    (gap,) = MEASURES["confidence"](ours, theirs)(*places)
    assert gap == pytest.approx(ks_2samp(ours.confidence, theirs.confidence).statistic)
    p, q = ours.shares.mean(0), theirs.shares.mean(0)
    (index,) = MEASURES["shares"](ours, theirs)(*places)
    assert index == pytest.approx(((p - q) * np.log(p / q)).sum())


def test_few_rows_have_no_verdict_and_a_lone_expert_no_shares() -> None:
    assert compare_features(seen(29, 1), seen(60, 2), EXPERTS)["verdict"] == FEW
    alone = DriftFeatures(np.ones((60, 1)), *(getattr(seen(60, 1), name) for name in ("confidence", "distance")))
    assert set(compare_features(alone, alone, ("news",))["measures"]) == {"confidence", "distance"}


def test_distance_is_scikit_learns_and_what_lies_off_all_that_was_seen_is_far() -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(400, 70)) * np.geomspace(3, 0.05, 70)
    space = fit_state_distribution(states, np.array(["news"] * 400), ["news"])
    apart = states - states.mean(0)
    precision = PCA(64, svd_solver="full").fit(apart).get_precision()
    wanted = np.sqrt(np.einsum("nd,de,ne->n", apart, precision, apart))
    np.testing.assert_allclose(space.distance(states), wanted, rtol=1e-6)
    off = states[:1].copy()
    off[0, -1] += 3  # where training texts hardly vary
    assert space.distance(off) > 3 * space.distance(states).max()


def test_the_nearest_domain_counts() -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(200, 5)) + np.repeat([[0.0], [50.0]], 100, axis=0)
    space = fit_state_distribution(states, np.array(["news"] * 100 + ["forum"] * 100), ["news", "forum"])
    assert space.distance(states).max() < 6
    assert space.distance(np.full((1, 5), 25.0)) > 20


@pytest.mark.parametrize(
    ("value", "form", "month"),
    [
        ("2024-03-31", None, "2024-03"),
        ("2024-03-31T23:59:00Z", None, "2024-03"),
        ("2024-03", None, "2024-03"),
        (datetime(2023, 12, 1, 5), None, "2023-12"),
        ("31.03.2024", "%d.%m.%Y", "2024-03"),
        ("03/04/2024", None, None),  # which of the two is the month is not guessed
        (None, None, None),
        ("", None, None),
    ],
)
def test_dates_are_read_and_not_guessed(value: object, form: str | None, month: str | None) -> None:
    assert month_of(value, form) == month


@pytest.fixture
def work(make_work: Make) -> Workspace:
    return make_work(domains={name: {"split": {"own": False, "ratios": [40, 40, 20]}} for name in ("news", "forum")})


def test_a_held_out_file_is_alike_and_another_domain_s_is_unlike_from_its_month_on(
    work: Workspace, tmp_path: Path
) -> None:
    folder = written(tmp_path / "model", load_backbone(work.run.backbone), work)
    with pytest.raises(Fault, match="--fit"):
        drift(folder, DriftRequest(tmp_path / "none.csv"), tmp_path)
    told = fit_reference(work, folder)
    assert told["held"] == {"news": 36, "forum": 36}
    check_manifest(folder, "a mixture")
    assert verify(folder)["folders"][0]["remarks"] == []
    held_out = [*work.rows("test")["text"]]
    alike = write_csv(tmp_path / "alike.csv", [{"text": text} for text in held_out])
    found = drift(folder, DriftRequest(alike), tmp_path / "alike")
    assert (found["whole"]["verdict"], found["whole"]["rows"], found["months"], found["undated"]) == (
        "alike",
        36,
        {},
        None,
    )
    old = [{"text": text, "date": "2024-01-05"} for text in held_out]
    new = [{"text": row["text"], "date": "2024-02-05"} for row in made_up_rows("macro")]
    mixed = write_csv(tmp_path / "mixed.csv", [*old, *new, {"text": "", "date": ""}, {"text": "sales", "date": "soon"}])
    found = drift(folder, DriftRequest(mixed), tmp_path / "mixed")
    assert {name: one["verdict"] for name, one in found["months"].items()} == {"2024-01": "alike", "2024-02": UNLIKE}
    assert (found["rejected"], found["undated"], found["whole"]["verdict"]) == (1, 1, UNLIKE)
    for name, report in (("alike", None), ("mixed", found)):
        assert (tmp_path / name / "drift.png").read_bytes().startswith(b"\x89PNG")
        assert report is None or read_json(tmp_path / name / "drift.json") == report
    console = Console(width=160, record=True)
    console.print(drift_view(found))
    said = console.export_text()
    assert "left out, without a text that can be read: 1" in said
    assert "2024-02" in said


def test_what_cannot_be_compared_is_one_sentence(work: Workspace, tmp_path: Path) -> None:
    folder = written(tmp_path / "model", load_backbone(work.run.backbone), work)
    fit_reference(work, folder)
    file = write_csv(tmp_path / "few.csv", [{"text": "profit rose", "day": "31.12.2024"}])
    for asked, says in (
        (DriftRequest(file, date_column="date"), "a column 'date' in few.csv; found the columns"),
        (DriftRequest(file, date_column="day"), "--date-format"),
        (DriftRequest(file, domain="sports"), "one of the domains news, forum"),
        (DriftRequest(file, text="words"), "a column 'words'"),
    ):
        with pytest.raises(Fault, match=says):
            drift(folder, asked, tmp_path / "out")
    assert (
        drift(folder, DriftRequest(file, date_column="day", date_format="%d.%m.%Y"), tmp_path / "out")["months"][
            "2024-12"
        ]["rows"]
        == 1
    )
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-8])
    with pytest.raises(Fault, match="another file or none"):
        read_reference(folder)
    fit_reference(work, folder)
    kept = read_json(folder / DRIFT)
    (folder / DRIFT).write_text('{"format": 1}')
    with pytest.raises(Fault, match="a whole reference"):
        read_reference(folder)
    (folder / DRIFT).write_text(str(kept | {"model": "0"}).replace("'", '"'))
    with pytest.raises(Fault, match="that of another"):
        read_reference(folder)
