"""Finished steps: kept if their settings, data and inputs are those of now, else refused with what differs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Make, made_up_rows, write_csv

from experts.errors import Fault
from experts.expert_io import read_expert
from moe.checkpoints.mixture import mixture_digest, parse_mixture_card
from moe.config.stages import EXPERT, JOINT, SHARED, WARMUP
from moe.runs.finished import expert_differences, mixture_differences, retrained_experts, stale_note, stale_steps
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.pipeline import train_all
from moe.training.steps import merge_experts, train_router

SHARED_RUN: dict[str, Any] = {"shared": {"r": 2}}


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run with a shared expert and of its data; tests copy it."""
    from conftest import NOUNS, tiny_run

    folder = tmp_path_factory.mktemp("finished")
    for domain in NOUNS:
        write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    work = Workspace(tiny_run(tiny_folder, folder / "data", **SHARED_RUN), folder / "run")
    train_all(work)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, in the folder of `make_work`."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path


def written(folder: Path) -> int:
    """Time at which a folder was written."""
    return (folder / "manifest.json").stat().st_mtime_ns


def test_finished_shared_expert_is_kept_when_all_experts_are_trained(make_work: Make, capsys: Any) -> None:
    work = make_work(**SHARED_RUN)
    folder = train_shared(work)
    before = written(folder)
    train_shared(work)
    assert train_domain(work, "news")
    assert work.reused == [folder]
    assert written(folder) == before
    assert "shared: finished earlier, kept; --overwrite trains it again" in capsys.readouterr().err


def test_resumed_training_keeps_all_finished_steps_and_makes_the_missing_one(make_work: Make, copied: Path) -> None:
    work = make_work(**SHARED_RUN)
    shutil.rmtree(copied / "run" / JOINT.folder)
    before = {path: path.stat().st_mtime_ns for path in (copied / "run").rglob("manifest.json")}
    assert {copied / "run" / stage.folder / "manifest.json" for stage in (SHARED, WARMUP)} < before.keys()
    train_all(work, resume=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (copied / "run" / JOINT.folder / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"lora": {"r": 3}}, "lora.r: 4 then, 3 now"),
        ({"stages": {"expert": {"steps": 5}}}, "stages.expert.steps: 6 then, 5 now"),
        ({"seed": 8}, "seed: 7 then, 8 now"),
        ({"losses": {"smoothing": 0.1}}, "losses.smoothing: 0.0 then, 0.1 now"),
        ({"domains": {"news": {"max_train_rows": 20}}}, "domains.news.max_train_rows: null then, 20 now"),
        ({"backbone": {"max_length": 12}}, "backbone.max_length: 16 then, 12 now"),
        ({"shared": None}, "a shared expert then, no shared expert now"),
    ],
)
def test_finished_expert_of_other_settings_is_refused_with_what_differs(
    make_work: Make, copied: Path, over: dict[str, Any], reason: str
) -> None:
    work = make_work(**(SHARED_RUN | over))
    with pytest.raises(Fault) as fault:
        train_domain(work, "news")
    assert reason in fault.value.found
    assert "--overwrite" in fault.value.remedy
    assert not work.reused


@pytest.mark.parametrize(
    "over",
    [
        {"stages": {"joint": {"steps": 5}, "expert": {"keep": 1}}},
        {"gate": {"hidden": 8}},
        {"losses": {"outer": "constant", "without": ["balance"]}},
        {"domains": {"forum": {"max_train_rows": 20}}},
        {"heads": {"merge": "per_expert"}},
    ],
)
def test_finished_expert_is_kept_if_only_other_steps_differ(
    make_work: Make, copied: Path, over: dict[str, Any]
) -> None:
    work = make_work(**(SHARED_RUN | over))
    assert train_domain(work, "news") == work.reused


def test_finished_shared_expert_differs_if_a_domain_was_added(make_work: Make, copied: Path) -> None:
    macro = {"macro": {"file": "macro.csv", "labels": ["negative", "neutral", "positive"]}}
    work = make_work(domains=macro, **SHARED_RUN)
    assert work.shared_folder is not None
    differences = expert_differences(work, SHARED, work.shared_folder, list(work.run.domains))
    assert differences == ["domains.macro: not in the config then"]
    assert train_domain(work, "news") == work.reused, "an expert of another domain is not touched by it"


def test_finished_expert_differs_after_its_file_has_changed(make_work: Make, copied: Path) -> None:
    work = make_work(**SHARED_RUN)
    write_csv(copied / "data" / "news.csv", made_up_rows("news", seed=3))
    folder = work.expert_folder("news")
    assert expert_differences(work, EXPERT, folder, ["news"]) == ["the data of news have changed since"]
    assert expert_differences(work, EXPERT, work.expert_folder("forum"), ["forum"]) == []


def test_finished_expert_with_damaged_files_is_refused(make_work: Make, copied: Path) -> None:
    work = make_work(**SHARED_RUN)
    (work.expert_folder("news") / "heads.safetensors").write_bytes(b"cut")
    with pytest.raises(Fault, match="a damaged folder"):
        train_domain(work, "news")
    train_domain(work, "news", overwrite=True)
    assert read_expert(work.expert_folder("news")).card is not None


def test_overwrite_with_resume_trains_only_what_differs(make_work: Make, copied: Path) -> None:
    work = make_work(**(SHARED_RUN | {"stages": {"expert": {"steps": 5}}}))
    before = {name: written(work.expert_folder(name)) for name in ("shared", "news")}
    train_shared(work, overwrite=True, resume=True)
    train_domain(work, "news", overwrite=True, resume=True)
    assert work.reused == [work.shared_folder]
    assert written(work.expert_folder("news")) > before["news"]
    train_domain(work, "news", overwrite=True, resume=True)
    assert work.reused == [work.shared_folder, work.expert_folder("news")]


def test_expert_is_stale_after_the_shared_expert_was_trained_again(make_work: Make, copied: Path) -> None:
    work = make_work(**(SHARED_RUN | {"stages": {"shared": {"steps": 5}}}))
    train_shared(work, overwrite=True)
    stale = stale_steps(work)
    assert stale == ["news", "forum", "moe-init", "router-warmup", "moe-joint"]
    note = stale_note(work, stale)
    assert "moe train-expert --all --overwrite, then moe merge --overwrite, then moe train-router --overwrite" in note
    with pytest.raises(Fault, match="was trained again since"):
        train_domain(work, "news")


def test_merge_is_kept_for_the_same_experts_and_refused_after_one_was_trained_again(
    make_work: Make, copied: Path
) -> None:
    work = make_work(**SHARED_RUN)
    assert not stale_steps(work)
    assert merge_experts(work) == work.reused[-1]
    other = make_work(**(SHARED_RUN | {"seed": 8}))
    train_domain(other, "news", overwrite=True)
    assert stale_steps(other) == ["moe-init", "router-warmup", "moe-joint"]
    assert retrained_experts(other, other.out / "moe-init") == ["news"]
    for step in (merge_experts, train_router):
        with pytest.raises(Fault, match="news was trained again since"):
            step(other)
    merge_experts(other, overwrite=True)
    assert stale_steps(other) == ["router-warmup", "moe-joint"]
    with pytest.raises(Fault, match="another moe-init than it was trained from"):
        train_router(other)
    train_router(other, overwrite=True)
    assert not stale_steps(other)


def test_merge_is_refused_if_experts_were_added_or_left_out(make_work: Make, copied: Path) -> None:
    work = make_work(**SHARED_RUN)
    with pytest.raises(Fault, match="forum is no longer among the experts"):
        merge_experts(work, [work.expert_folder("news")])
    assert work.reused == []


def test_router_is_refused_if_the_merge_has_another_gate(make_work: Make, copied: Path) -> None:
    work = make_work(**(SHARED_RUN | {"gate": {"hidden": 8}}))
    for step in (merge_experts, train_router):
        with pytest.raises(Fault, match=r"gate.hidden: \d+ then, 8 now"):
            step(work)


def test_expert_merged_from_another_folder_is_not_taken_for_a_retrained_one(make_work: Make, copied: Path) -> None:
    work, other = make_work(**SHARED_RUN), make_work("other", **(SHARED_RUN | {"seed": 8}))
    shutil.copytree(work.out / "experts" / "shared", other.expert_folder("shared"))
    (news,) = train_domain(other, "news")
    merge_experts(work, [news, work.expert_folder("forum")], overwrite=True)
    assert not retrained_experts(work, work.out / "moe-init")


def test_mixture_records_the_mixture_that_its_stage_started_from(make_work: Make, copied: Path) -> None:
    work = make_work(**SHARED_RUN)
    merged, warm, joint = (work.out / name for name in ("moe-init", "router-warmup", "moe-joint"))
    assert parse_mixture_card(merged).start is None
    assert parse_mixture_card(warm).start == mixture_digest(merged)
    assert parse_mixture_card(joint).start == mixture_digest(warm)
    assert mixture_differences(work, WARMUP, warm, merged) == []
    assert mixture_differences(work, JOINT, joint, merged) == ["another moe-init than it was trained from"]


def test_joint_stage_of_an_earlier_warm_up_is_refused_before_the_warm_up_is_trained(
    make_work: Make, copied: Path
) -> None:
    work = make_work(**SHARED_RUN)
    shutil.rmtree(work.out / "router-warmup")
    with pytest.raises(Fault, match="no such folder"):
        train_router(work)
    assert not (work.out / "router-warmup").exists()
