"""Tests of exact erasure: with an expert that was added and removed, nothing is left of its domain's data."""

from pathlib import Path

from conftest import LABELS, Make

from experts.atomic_io import MANIFEST, read_json
from moe.config.stages import WARMUP
from moe.membership.update import UpdateTarget, add, remove
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_stage

STANCES = ("dovish", "neutral", "hawkish")
DOMAINS = {name: {"file": f"{name}.csv", "labels": list(LABELS)} for name in ("news", "forum")}
MACRO = {"file": "macro.csv", "labels": list(STANCES), "label_map": dict(zip(LABELS, STANCES, strict=True))}


def train_without(work: Workspace) -> Path:
    """Train the shared expert and the experts of news and forum, and the router of their mixture."""
    train_shared(work)
    for name in DOMAINS:
        train_domain(work, name)
    merge_experts(work)
    train_stage(work, WARMUP, work.out / "moe-init")
    return work.out / WARMUP.folder


def hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of a folder's files, those that describe it left out: its card, settings and figures."""
    descriptions = ("mixture.json", "config.yaml", "metrics.json", "README.md")
    return {name: sha256 for name, sha256 in read_json(folder / MANIFEST)["sha256"].items() if name not in descriptions}


def test_mixture_without_a_removed_expert_is_the_one_that_never_had_it(make_work: Make) -> None:
    settings = {"shared": {"r": 4}, "heads": {"merge": "per_expert"}}
    never = train_without(make_work("never", domains=DOMAINS, **settings))
    removed = train_without(make_work("removed", domains=DOMAINS, **settings))
    adapt = {"steps": 10, "evals": 1, "router_lr": 0.05, "head_lr": 0.05}
    work = make_work("removed", domains=DOMAINS | {"macro": MACRO}, stages={"adapt": adapt}, **settings)
    train_domain(work, "macro")
    add(removed, work.expert_folder("macro"), work.run, UpdateTarget(work.out / "with-macro"))
    remove(work.out / "with-macro", "macro", UpdateTarget(work.out / "again"))
    assert hashes(work.out / "with-macro") != hashes(never)
    assert hashes(work.out / "again") == hashes(never)
    assert set(hashes(never)) >= {"router.safetensors", "heads.safetensors", "experts/shared/adapter_model.safetensors"}
    for name in ("mixture.json", "metrics.json", "README.md"):
        assert "macro" not in (work.out / "again" / name).read_text()
