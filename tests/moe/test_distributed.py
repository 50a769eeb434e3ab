"""Claims about training in several processes: two give what one gives with their rows; they stop and go on together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Make
from distributed import CALM, assert_alike, classifier, cut, team, train
from safetensors.torch import load_file

from experts.errors import Fault
from moe import distributed
from moe.data.sampler import DomainBatchSampler
from moe.training.steps import train_domain

TESTS = Path(__file__).parent.parent
STEPS = ("news", "forum", "router-warmup", "moe-joint")


def together(*words: str, processes: int = 2, expect: int = 0) -> str:
    """What processes started by torchrun said."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *words]
    place = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        launch,
        env=kept | {"PYTHONPATH": place, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=TESTS.parent,
    )
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == (expect == 0), said[-3000:]
    return said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Folders of the same runs by two processes and by one with twice the batch, and what the two said."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    said = together(str(TESTS / "together.py"), "train", str(two), "4")
    train(one, 8)
    return two, one, said


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
def test_two_processes_train_what_one_does_with_twice_the_batch(
    trained: tuple[Path, Path, str], name: str, steps: tuple[str, ...]
) -> None:
    works = [(team if "texts" in name else classifier)(place / name, {}) for place in trained[:2]]
    assert_alike(*works, steps, rel=1e-3)


@pytest.mark.slow
def test_one_of_several_processes_speaks_and_writes(trained: tuple[Path, Path, str]) -> None:
    two, one, said = trained
    assert said.count("router-warmup: 6 steps, validation macro-F1") == 3, "once a run"
    for name in ("labels", "ahead", "texts", "shard", "shard-texts"):
        written = [{p.relative_to(place / name) for p in (place / name / "run").rglob("*")} for place in (two, one)]
        own = ("events.", "cache-")  # names with a time or a random number
        kept = [{p for p in some if not p.name.startswith(own)} for some in written]
        assert kept[0] == kept[1]


@pytest.mark.slow
def test_processes_stop_together_and_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    together(str(TESTS / "together.py"), "stop", str(tmp_path), "4")
    for kind in ("", "shard-"):
        whole, stopped = (
            load_file(tmp_path / f"{kind}{name}" / "run" / "experts" / "news" / "adapter_model.safetensors")
            for name in ("whole", "stopped")
        )
        for key, tensor in whole.items():
            assert torch.equal(stopped[key], tensor)
    begun = classifier(tmp_path / "begun", cut(4, 1))
    assert not begun.expert_folder("news").exists()
    with pytest.raises(Fault, match="2 processes, the number that wrote the checkpoint"):
        train_domain(begun, "news", resume=True)


def test_a_fault_is_told_once_and_ends_all(tmp_path: Path) -> None:
    words = ("train-expert", "--domain", "nwes", "--out", str(tmp_path))
    said = together("-m", "moe", *words, expect=2)
    assert said.count("moe: Expected one of the domains") == 1
    assert "moe: Expected one process for moe infer" in together("-m", "moe", "infer", "profit rose", expect=2)


def test_each_process_takes_its_share_of_every_step_and_none_a_row_twice() -> None:
    domains, lengths = torch.arange(23).numpy() % 2, torch.arange(23).numpy()
    shares = [DomainBatchSampler(domains, lengths, 6, 1.0, 3, shard=(i, 2)) for i in range(2)]
    steps = list(zip(*shares, strict=True))
    assert len(steps) == len(shares[0])
    assert all(len(a) == len(b) <= 3 for a, b in steps)
    rows = [row for pair in steps for part in pair for row in part]
    assert len(rows) == len(set(rows)) == 22, "one row is too few to be shared"


def test_fewer_rows_than_processes_are_refused() -> None:
    with pytest.raises(Fault, match="training rows for 4 processes"):
        DomainBatchSampler(torch.zeros(3).numpy(), torch.ones(3).numpy(), 4, 1.0, 3, shard=(0, 4))


def test_alone_everything_is_what_it_is() -> None:
    rows = torch.ones(3, 2, requires_grad=True)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.all_gather(rows) is distributed.scalar_all_reduce(rows) is distributed.all_reduce(rows) is rows
    assert distributed.all_reduce_max(3) == 3
    assert distributed.broadcast_from_main(lambda: "said") == "said"


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"dao": {"objective": "validation"}}, "dao.objective is validation"),
        ({"losses": {"measured": "parameters"}}, "losses.measured is parameters"),
        ({"losses": {"outer": "pcgrad"}}, "losses.outer is pcgrad"),
    ],
)
def test_what_needs_a_step_in_one_pass_is_refused_with_micro_batches(
    make_work: Make, over: dict[str, object], told: str
) -> None:
    make_work(**CALM, **over)
    with pytest.raises(Fault, match=f"stages.joint.accumulate is 2, but {told}"):
        make_work(**over, stages={"joint": {"accumulate": 2}})


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"dao": {"objective": "validation"}}, "dao.objective is validation"),
        ({"losses": {"outer": "pcgrad"}}, "losses.outer is pcgrad"),
        ({"backbone": {"quantization": "nf4"}}, "backbone.quantization is nf4"),
    ],
)
def test_what_needs_whole_weights_is_refused_where_they_are_shared_out(
    make_work: Make, over: dict[str, object], told: str
) -> None:
    with pytest.raises(Fault, match=f"stages.shard is true, but {told}"):
        make_work(**over, stages={"shard": True})
