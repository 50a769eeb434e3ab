"""Tests of training in several processes: same losses and weights as one process, common stop, one set of files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Make
from distributed import (
    NO_DROPOUT,
    assert_same_training,
    batch_settings,
    make_classifier_workspace,
    make_team_workspace,
    train_everything,
)
from safetensors.torch import load_file

from experts.errors import Fault
from moe import distributed
from moe.data.sampler import DomainBatchSampler
from moe.training.expert_steps import train_domain

TESTS = Path(__file__).parent.parent
STEPS = ("news", "forum", "router-warmup", "moe-joint")


def torchrun(*arguments: str, processes: int = 2, expect: int = 0) -> str:
    """Run a script or module under torchrun and return its output."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    inherited = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    process = subprocess.run(
        [*launch, *arguments],
        env=inherited | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=TESTS.parent,
    )
    output = process.stdout + process.stderr
    assert (process.returncode == 0) == (expect == 0), output[-3000:]
    return output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Folders of runs by two processes and by one with twice the batch, and the output of the two."""
    two, single = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    output = torchrun(str(TESTS / "distributed.py"), "train", str(two), "4")
    train_everything(single, 8)
    return two, single, output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("labels", STEPS),
        ("ahead", ("shared", *STEPS)),
        ("texts", (*STEPS, "moe-instruct")),
        ("shard", STEPS),
        ("shard-texts", (*STEPS, "moe-instruct")),
    ],
)
def test_two_processes_train_like_one_with_twice_the_batch(
    trained: tuple[Path, Path, str], name: str, steps: tuple[str, ...]
) -> None:
    make_workspace = make_team_workspace if "texts" in name else make_classifier_workspace
    works = [make_workspace(folder / name, {}) for folder in trained[:2]]
    assert_same_training(*works, steps, rel=1e-3)


@pytest.mark.slow
def test_only_rank_0_prints_and_writes(trained: tuple[Path, Path, str]) -> None:
    two, single, output = trained
    assert output.count("router-warmup: 6 steps, validation macro-F1") == 3, "once for each run of labels"
    for name in ("labels", "ahead", "texts", "shard", "shard-texts"):
        written = [
            {p.relative_to(folder / name) for p in (folder / name / "run").rglob("*")} for folder in (two, single)
        ]
        varying = ("events.", "cache-", "lengths-")  # names with a time, a random number or the backbone's path
        stable = [{path for path in paths if not path.name.startswith(varying)} for paths in written]
        assert stable[0] == stable[1]


@pytest.mark.slow
def test_processes_stop_together_and_resume_to_the_weights_of_an_undisturbed_run(tmp_path: Path) -> None:
    torchrun(str(TESTS / "distributed.py"), "stop", str(tmp_path), "4")
    for kind in ("", "shard-"):
        undisturbed, stopped = (
            load_file(tmp_path / f"{kind}{name}" / "run" / "experts" / "news" / "adapter_model.safetensors")
            for name in ("whole", "stopped")
        )
        for key, tensor in undisturbed.items():
            assert torch.equal(stopped[key], tensor)
    begun = make_classifier_workspace(tmp_path / "begun", batch_settings(4, 1))
    assert not begun.expert_folder("news").exists()
    with pytest.raises(Fault, match="2 processes, the number that wrote the checkpoint"):
        train_domain(begun, "news", resume=True)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("infer", "profit rose"), "one process for moe infer"),
        pytest.param(("train-expert", "--domain", "nwes"), "one of the domains", marks=pytest.mark.slow),
    ],
)
def test_fault_in_several_processes_is_printed_once_and_ends_all(arguments: tuple[str, ...], fault: str) -> None:
    output = torchrun("-m", "moe", *arguments, expect=2)
    assert output.count(f"moe: Expected {fault}") == 1


def test_collectives_give_two_processes_the_same_results_and_the_group_is_destroyed(tmp_path: Path) -> None:
    output = torchrun(str(TESTS / "distributed.py"), "collectives", str(tmp_path), "1")
    assert output.count("has the right results") == 2
    assert output.count("destroyed its group: True") == 2


def test_sampler_splits_every_step_over_processes_and_repeats_no_row() -> None:
    domains, lengths = torch.arange(23).numpy() % 2, torch.arange(23).numpy()
    samplers = [DomainBatchSampler(domains, lengths, 6, 1.0, 3, shard=(i, 2)) for i in range(2)]
    steps = list(zip(*samplers, strict=True))
    assert len(steps) == len(samplers[0])
    assert all(len(a) == len(b) <= 3 for a, b in steps)
    rows = [row for pair in steps for part in pair for row in part]
    assert len(rows) == len(set(rows)) == 22, "the last row cannot be divided among two processes"


def test_sampler_refuses_fewer_rows_than_processes() -> None:
    with pytest.raises(Fault, match="training row for each of 4 processes"):
        DomainBatchSampler(torch.zeros(3).numpy(), torch.ones(3).numpy(), 4, 1.0, 3, shard=(0, 4))


def test_collectives_do_nothing_in_a_single_process() -> None:
    rows = torch.ones(3, 2, requires_grad=True)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main_process()) == (0, 1, True)
    assert distributed.all_gather(rows) is distributed.scalar_all_reduce(rows) is distributed.all_reduce(rows) is rows
    assert distributed.all_reduce_max(3) == 3
    assert distributed.broadcast_from_main(lambda: "value") == "value"


@pytest.mark.parametrize(
    ("over", "setting"),
    [
        ({"dao": {"objective": "validation"}}, "dao.objective is validation"),
        ({"losses": {"measured": "parameters"}}, "losses.measured is parameters"),
        ({"losses": {"outer": "pcgrad"}}, "losses.outer is pcgrad"),
    ],
)
def test_config_refuses_micro_batches_with_losses_that_need_a_single_pass(
    make_work: Make, over: dict[str, object], setting: str
) -> None:
    make_work(**NO_DROPOUT, **over)
    with pytest.raises(Fault, match=f"stages.joint.accumulate is 2, but {setting}"):
        make_work(**over, stages={"joint": {"accumulate": 2}})


@pytest.mark.parametrize(
    ("over", "setting"),
    [
        ({"dao": {"objective": "validation"}}, "dao.objective is validation"),
        ({"losses": {"outer": "pcgrad"}}, "losses.outer is pcgrad"),
        ({"backbone": {"quantization": "nf4"}}, "backbone.quantization is nf4"),
    ],
)
def test_config_refuses_sharding_with_settings_that_need_unsharded_weights(
    make_work: Make, over: dict[str, object], setting: str
) -> None:
    with pytest.raises(Fault, match=f"stages.shard is true, but {setting}"):
        make_work(**over, stages={"shard": True})
