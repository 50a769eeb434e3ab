"""Tests for sweep files: their trials, and errors that are reported at once, before any weights are loaded."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import tiny_settings

from experts.errors import Fault
from moe.config.messages import ConfigFault
from moe.sweep.grid import SweepPlan, as_yaml, check_sweep, is_sweep, read_plan, slug
from moe.sweep.settings import SearchRange, SweepSettings


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """Folder with a run config and its data files."""
    (tmp_path / "data").mkdir()
    for name in ("news", "forum"):
        (tmp_path / "data" / f"{name}.csv").touch()
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_settings(tiny_folder, tmp_path / "data")))
    return tmp_path


def plan_of(folder: Path, text: str, sets: tuple[str, ...] = (), over: tuple[str, ...] = ()) -> SweepPlan:
    """Plan of a sweep file with this text, over the tiny run."""
    path = folder / "sweep.yaml"
    path.write_text(f"run: tiny.yaml\n{text}", encoding="utf-8")
    return read_plan(path, sets, over)


def faults_of(folder: Path, text: str, *over: str) -> str:
    """All errors of a sweep file, in one string."""
    with pytest.raises(ConfigFault) as caught:
        plan_of(folder, text, (), over)
    return " | ".join(caught.value.faults)


def test_grid_is_every_combination_with_joined_settings_together(folder: Path) -> None:
    plan = plan_of(folder, 'over: {"lora.r, lora.alpha": [[8, 8], [16, 16]]}')
    trials = plan.trials(plan.grid())
    assert [(trial.run.lora.r, trial.run.lora.alpha) for trial in trials] == [(8, 8), (16, 16)]
    plan = plan_of(folder, "over: {lora.r: [4, 8], gate.kind: [soft, hard], losses.inner: [constant]}")
    trials = plan.trials(plan.grid())
    assert len(trials) == 4
    assert {trial.run.losses.inner for trial in trials} == {"constant"}
    assert "inner" not in trials[0].key
    assert len({trial.key for trial in trials}) == 4


def test_mapping_is_a_single_value(folder: Path) -> None:
    plan = plan_of(folder, "over: {losses.constants: [{classes: .05, polarity: .95}, {classes: .3, polarity: .7}]}")
    assert [trial.run.losses.constants["classes"] for trial in plan.trials(plan.grid())] == [0.05, 0.3]


def test_text_such_as_1e_4_is_parsed_as_a_number(folder: Path) -> None:
    plan = plan_of(folder, "over: {stages.expert.lr: [1e-4, 1e-3]}")
    assert [trial.values["stages.expert.lr"] for trial in plan.trials(plan.grid())] == [1e-4, 1e-3]


@pytest.mark.parametrize("value", [1e-05, 8, "soft", None, True, {"classes": 0.05}, [70, 10, 20], "利空"])
def test_as_yaml_round_trips(value: object) -> None:
    assert yaml.safe_load(as_yaml(value)) == value


def test_values_of_a_trial_override_sets(folder: Path) -> None:
    plan = plan_of(folder, "over: {lora.r: [4, 8]}", ("lora.r=2", "lora.alpha=3"))
    assert [(trial.run.lora.r, trial.run.lora.alpha) for trial in plan.trials(plan.grid())] == [(4, 3), (8, 3)]


def test_over_adds_and_replaces_keys_and_sets_the_seeds(folder: Path) -> None:
    plan = plan_of(folder, "over: {lora.r: [4, 8]}", (), ("lora.r,lora.alpha=[2,2],[3,3]", "seed=1,2"))
    assert [(trial.run.lora.r, trial.run.lora.alpha) for trial in plan.trials(plan.grid())] == [(2, 2), (3, 3)]
    assert plan.settings.seeds == (1, 2)


def test_run_config_with_over_is_a_sweep(folder: Path) -> None:
    plan = read_plan(folder / "tiny.yaml", (), ("lora.r=4,8",))
    assert len(plan.trials(plan.grid())) == 2
    with pytest.raises(ConfigFault, match="nothing to sweep"):
        read_plan(folder / "tiny.yaml")


def test_trial_without_seeds_has_the_seed_of_the_run(folder: Path) -> None:
    plan = plan_of(folder, "over: {lora.r: [4]}")
    assert plan.seeds_of(plan.trials(plan.grid())[0]) == (7,)


def test_trial_key_names_its_values_and_changes_with_any_setting(folder: Path) -> None:
    default, changed = (plan_of(folder, "over: {lora.r: [4, 8]}", sets) for sets in ((), ("lora.dropout=0.2",)))
    first = [plan.trials(plan.grid())[0] for plan in (default, changed)]
    assert all(trial.key == f"r-4-{trial.digest}" for trial in first)
    assert first[0].digest != first[1].digest
    more = plan_of(folder, "over: {lora.r: [8, 4], gate.kind: [soft, hard]}\nseeds: [1, 2]")
    assert first[0].digest in [trial.digest for trial in more.trials(more.grid())], "other keys change no trial"


def test_slug_is_short_and_safe_as_a_folder_name() -> None:
    assert slug({"a.kind": "soft/../x y", "b.c": {"d": 0.05}}) == "kind-soft-..-x-y_c-d-0.05"
    assert len(slug({"a": "x" * 200})) == 60
    assert slug({}) == "point"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("over: {}", "nothing to sweep"),
        ("over: {lora.r: []}", "over.lora.r: List should have at least 1 item"),
        ("over: {lora.r: 8}", "over.lora.r: Input should be a valid list, found 8"),
        ('over: {"lora.r, lora.alpha": [[8, 8], [16]]}', "each value is a list of 2, found [16]"),
        ("over: {lora.r: [8, 8]}", "the same value is listed twice"),
        ("over: {lora.r: [8]}\nseeds: [1, 1]", "the same value is listed twice"),
        ("over: {seed: [1]}", "write seeds:"),
        ('over: {lora.r: [8], "lora.r,lora.alpha": [[8, 8]]}', "lora.r is swept twice"),
        ("over: {lora.r: [8]}\nuntil: warmup", "until: Input should be 'expert', 'shared', 'merge' or 'router'"),
        ("over: {lora.r: [8]}\ndomains: [news]", "remove them"),
        ("over: {lora.r: [8]}\nsedes: [1]", "sedes: unknown key, did you mean seeds?"),
        ("search: {ranges: {lora.r: {low: 8, high: 8}}}", "low 8 is not below high 8"),
        ("search: {ranges: {lora.r: {low: 0, high: 8, log: true}}}", "a log scale starts above 0"),
        ("search: {ranges: {lora.r: {low: 1.5, high: 8, int: true}}}", "int needs integers as low and high"),
        ("search: {trials: 0, ranges: {lora.r: {low: 1, high: 8}}}", "search.trials"),
    ],
)
def test_error_of_the_file_is_reported(folder: Path, text: str, message: str) -> None:
    assert message in faults_of(folder, text)


def test_all_errors_of_a_file_are_reported_at_once(folder: Path) -> None:
    faults = faults_of(folder, "over: {lora.r: []}\nuntil: warmup\nseeds: [many]\nsedes: 1")
    assert all(word in faults for word in ("over.lora.r", "until", "seeds.0", "sedes"))


def test_all_errors_of_all_trials_are_reported_without_duplicates(folder: Path) -> None:
    plan = plan_of(folder, "over: {lora.r: [0, 4, -1], lora.rr: [1]}\nuntil: expert\ndomains: [nwes]")
    with pytest.raises(ConfigFault) as caught:
        plan.trials(plan.grid())
    faults = caught.value.faults
    assert [fault for fault in faults if "lora.rr: unknown key" in fault] == [
        "lora.rr: unknown key, did you mean r? (line 2)"
    ]
    assert any("found 0" in fault for fault in faults)
    assert any("found -1" in fault for fault in faults)


def test_trial_needs_its_files_domains_shared_expert_and_trunk(folder: Path) -> None:
    for text, word in (
        ("over: {domains.news.file: [none.csv]}", "no file at"),
        ("over: {lora.r: [4]}\nuntil: expert\ndomains: [nwes]", "did you mean news"),
        ("over: {lora.r: [4]}\nuntil: shared", "shared.r"),
        ("over: {backbone.trunk_depth: [1, 2]}", "the backbone has 2 layers"),
    ):
        plan = plan_of(folder, text)
        with pytest.raises(ConfigFault, match=word):
            plan.trials(plan.grid())


@pytest.mark.parametrize("override", ["lora.r", "=4", "lora.r=", "lora.r=[4"])
def test_malformed_over_is_refused(folder: Path, override: str) -> None:
    with pytest.raises(Fault):
        plan_of(folder, "over: {lora.alpha: [4]}", (), (override,))


def test_search_settings_are_hashed_with_their_original_keys(folder: Path) -> None:
    """Renamed fields would change the name of a study, and a search could not resume."""
    plan = plan_of(folder, "search: {ranges: {lora.r: {low: 2, high: 8, int: true}}}")
    assert plan.settings.model_dump(mode="json", by_alias=True)["search"]["ranges"] == {
        "lora.r": {"low": 2.0, "high": 8.0, "log": False, "whole": True}
    }


def test_both_ends_of_a_search_range_are_checked(folder: Path) -> None:
    plan = plan_of(folder, "search: {ranges: {lora.dropout: {low: 0.1, high: 1.5}}}")
    with pytest.raises(ConfigFault, match=r"lora.dropout"):
        plan.trials(plan.corners())


def test_values_are_json_serialisable(folder: Path) -> None:
    plan = plan_of(folder, "over: {lora.r: [4, 8], losses.constants: [{classes: 1e-1}]}")
    assert json.loads(json.dumps([trial.values for trial in plan.trials(plan.grid())]))[0]["losses.constants"] == {
        "classes": 0.1
    }


def test_page_lists_every_field_of_a_sweep_file() -> None:
    page = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    fields = [*SweepSettings.model_fields.keys() - {"search"}, "search.trials", "search.ranges"]
    assert not [name for name in fields if f"| {name} |" not in page]
    assert not [name for name, field in SearchRange.model_fields.items() if (field.alias or name) not in page]


def test_check_summarises_a_valid_sweep_or_reports_every_error(folder: Path) -> None:
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
