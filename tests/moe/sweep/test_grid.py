"""Claims about sweep files: what their points are, and that faults are told at once, before any weight is loaded."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import tiny_settings

from experts.errors import Fault
from moe.config.run import ConfigFault
from moe.sweep.grid import SweepPlan, as_yaml, check_sweep, is_sweep, read_plan, slug
from moe.sweep.settings import SearchRange, SweepSettings


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A folder with a run's config and its data files."""
    (tmp_path / "data").mkdir()
    for name in ("news", "forum"):
        (tmp_path / "data" / f"{name}.csv").touch()
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_settings(tiny_folder, tmp_path / "data")))
    return tmp_path


def plan_of(folder: Path, text: str, sets: tuple[str, ...] = (), over: tuple[str, ...] = ()) -> SweepPlan:
    """The plan of a sweep file with this text, over the tiny run."""
    path = folder / "sweep.yaml"
    path.write_text(f"run: tiny.yaml\n{text}", encoding="utf-8")
    return read_plan(path, sets, over)


def faults_of(folder: Path, text: str, *over: str) -> str:
    """What is told of it, in one text."""
    with pytest.raises(ConfigFault) as caught:
        plan_of(folder, text, (), over)
    return " | ".join(caught.value.faults)


def test_a_grid_is_every_combination_and_joined_settings_go_together(folder: Path) -> None:
    plan = plan_of(folder, 'over: {"lora.r, lora.alpha": [[8, 8], [16, 16]]}')
    points = plan.points(plan.grid())
    assert [(one.run.lora.r, one.run.lora.alpha) for one in points] == [(8, 8), (16, 16)]
    plan = plan_of(folder, "over: {lora.r: [4, 8], gate.kind: [soft, hard], losses.inner: [constant]}")
    points = plan.points(plan.grid())
    assert len(points) == 4
    assert {one.run.losses.inner for one in points} == {"constant"}
    assert "inner" not in points[0].key
    assert len({one.key for one in points}) == 4


def test_a_mapping_is_one_value(folder: Path) -> None:
    plan = plan_of(folder, "over: {losses.constants: [{classes: .05, polarity: .95}, {classes: .3, polarity: .7}]}")
    assert [one.run.losses.constants["classes"] for one in plan.points(plan.grid())] == [0.05, 0.3]


def test_words_such_as_1e_4_are_numbers(folder: Path) -> None:
    plan = plan_of(folder, "over: {stages.expert.lr: [1e-4, 1e-3]}")
    assert [one.values["stages.expert.lr"] for one in plan.points(plan.grid())] == [1e-4, 1e-3]


@pytest.mark.parametrize("value", [1e-05, 8, "soft", None, True, {"classes": 0.05}, [70, 10, 20], "利空"])
def test_a_value_written_as_yaml_is_the_same_value(value: object) -> None:
    assert yaml.safe_load(as_yaml(value)) == value


def test_sets_lie_under_the_points_own_values(folder: Path) -> None:
    plan = plan_of(folder, "over: {lora.r: [4, 8]}", ("lora.r=2", "lora.alpha=3"))
    assert [(one.run.lora.r, one.run.lora.alpha) for one in plan.points(plan.grid())] == [(4, 3), (8, 3)]


def test_over_adds_and_replaces_and_gives_the_seeds(folder: Path) -> None:
    plan = plan_of(folder, "over: {lora.r: [4, 8]}", (), ("lora.r,lora.alpha=[2,2],[3,3]", "seed=1,2"))
    assert [(one.run.lora.r, one.run.lora.alpha) for one in plan.points(plan.grid())] == [(2, 2), (3, 3)]
    assert plan.settings.seeds == (1, 2)


def test_a_runs_config_with_over_is_a_sweep(folder: Path) -> None:
    plan = read_plan(folder / "tiny.yaml", (), ("lora.r=4,8",))
    assert len(plan.points(plan.grid())) == 2
    with pytest.raises(ConfigFault, match="nothing to sweep"):
        read_plan(folder / "tiny.yaml")


def test_without_seeds_a_point_has_the_runs_own(folder: Path) -> None:
    plan = plan_of(folder, "over: {lora.r: [4]}")
    assert plan.seeds_of(plan.points(plan.grid())[0]) == (7,)


def test_a_points_folder_tells_its_values_and_changes_with_any_setting(folder: Path) -> None:
    plain, other = (plan_of(folder, "over: {lora.r: [4, 8]}", sets) for sets in ((), ("lora.dropout=0.2",)))
    first = [plan.points(plan.grid())[0] for plan in (plain, other)]
    assert all(one.key == f"r-4-{one.digest}" for one in first)
    assert first[0].digest != first[1].digest
    more = plan_of(folder, "over: {lora.r: [8, 4], gate.kind: [soft, hard]}\nseeds: [1, 2]")
    assert first[0].digest in [one.digest for one in more.points(more.grid())], "what else is swept changes no point"


def test_slugs_are_short_and_hold_no_odd_letters() -> None:
    assert slug({"a.kind": "soft/../x y", "b.c": {"d": 0.05}}) == "kind-soft-..-x-y_c-d-0.05"
    assert len(slug({"a": "x" * 200})) == 60
    assert slug({}) == "point"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("over: {}", "nothing to sweep"),
        ("over: {lora.r: []}", "over.lora.r: List should have at least 1 item"),
        ("over: {lora.r: 8}", "over.lora.r: Input should be a valid list, found 8"),
        ('over: {"lora.r, lora.alpha": [[8, 8], [16]]}', "each value is a list of 2, found [16]"),
        ("over: {lora.r: [8, 8]}", "the same value stands there twice"),
        ("over: {lora.r: [8]}\nseeds: [1, 1]", "the same value stands there twice"),
        ("over: {seed: [1]}", "write seeds:"),
        ('over: {lora.r: [8], "lora.r,lora.alpha": [[8, 8]]}', "lora.r is swept twice"),
        ("over: {lora.r: [8]}\nuntil: warmup", "until: Input should be 'expert', 'shared', 'merge' or 'router'"),
        ("over: {lora.r: [8]}\ndomains: [news]", "drop them"),
        ("over: {lora.r: [8]}\nsedes: [1]", "sedes: unknown key, did you mean seeds?"),
        ("search: {ranges: {lora.r: {low: 8, high: 8}}}", "low 8 is not below high 8"),
        ("search: {ranges: {lora.r: {low: 0, high: 8, log: true}}}", "a log scale starts above 0"),
        ("search: {ranges: {lora.r: {low: 1.5, high: 8, int: true}}}", "int needs whole low and high"),
        ("search: {trials: 0, ranges: {lora.r: {low: 1, high: 8}}}", "search.trials"),
    ],
)
def test_a_fault_of_the_file_is_told(folder: Path, text: str, told: str) -> None:
    assert told in faults_of(folder, text)


def test_all_faults_of_a_file_are_told_at_once(folder: Path) -> None:
    told = faults_of(folder, "over: {lora.r: []}\nuntil: warmup\nseeds: [many]\nsedes: 1")
    assert all(word in told for word in ("over.lora.r", "until", "seeds.0", "sedes"))


def test_all_faults_of_all_points_are_told_at_once_and_once(folder: Path) -> None:
    plan = plan_of(folder, "over: {lora.r: [0, 4, -1], lora.rr: [1]}\nuntil: expert\ndomains: [nwes]")
    with pytest.raises(ConfigFault) as caught:
        plan.points(plan.grid())
    told = caught.value.faults
    assert [one for one in told if "lora.rr: unknown key" in one] == ["lora.rr: unknown key, did you mean r?"]
    assert any("found 0" in one for one in told)
    assert any("found -1" in one for one in told)


def test_a_point_needs_its_files_its_domains_and_its_shared_expert(folder: Path) -> None:
    for text, word in (
        ("over: {domains.news.file: [none.csv]}", "no file at"),
        ("over: {lora.r: [4]}\nuntil: expert\ndomains: [nwes]", "did you mean news"),
        ("over: {lora.r: [4]}\nuntil: shared", "shared.r"),
        ("over: {backbone.trunk_depth: [1, 2]}", "the backbone has 2 layers"),
    ):
        plan = plan_of(folder, text)
        with pytest.raises(ConfigFault, match=word):
            plan.points(plan.grid())


@pytest.mark.parametrize("one", ["lora.r", "=4", "lora.r=", "lora.r=[4"])
def test_an_over_that_is_none_is_refused(folder: Path, one: str) -> None:
    with pytest.raises(Fault):
        plan_of(folder, "over: {lora.alpha: [4]}", (), (one,))


def test_both_ends_of_a_range_are_checked(folder: Path) -> None:
    plan = plan_of(folder, "search: {ranges: {lora.dropout: {low: 0.1, high: 1.5}}}")
    with pytest.raises(ConfigFault, match=r"lora.dropout"):
        plan.points(plan.corners())


def test_values_are_json(folder: Path) -> None:
    plan = plan_of(folder, "over: {lora.r: [4, 8], losses.constants: [{classes: 1e-1}]}")
    assert json.loads(json.dumps([one.values for one in plan.points(plan.grid())]))[0]["losses.constants"] == {
        "classes": 0.1
    }


def test_the_page_tells_every_field_of_a_sweep_file() -> None:
    page = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    fields = [*SweepSettings.model_fields.keys() - {"search"}, "search.trials", "search.ranges"]
    assert not [name for name in fields if f"| {name} |" not in page]
    assert not [one.alias or name for name, one in SearchRange.model_fields.items() if (one.alias or name) not in page]


def test_a_check_tells_what_a_sweep_would_train_or_every_fault_of_it(folder: Path) -> None:
    path = folder / "sweep.yaml"
    path.write_text("run: tiny.yaml\nseeds: [1, 2]\nover: {lora.r: [4, 8]}", encoding="utf-8")
    assert is_sweep(path)
    assert not is_sweep(folder / "tiny.yaml")
    assert "a sweep of lora.r over" in check_sweep(path)
    assert check_sweep(path).endswith("4 trainings")
    path.write_text("run: tiny.yaml\nover: {lora.r: [0], gate.kind: [none]}", encoding="utf-8")
    with pytest.raises(ConfigFault) as caught:
        check_sweep(path)
    assert len(caught.value.faults) == 2
