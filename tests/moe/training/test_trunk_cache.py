"""Tests of the trunk cache: same results, one file per task and run, separate files for other inputs."""

from pathlib import Path

import pytest
import torch
from conftest import Make

from experts.adapter import build_adapter
from experts.atomic_io import write_json, write_manifest
from experts.safetensors_io import load_tensors, save_tensors
from moe.checkpoints.expert import build_expert_model
from moe.data.collator import Collator
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.steps import merge_experts, train_router
from moe.training.trunk_cache import TrunkCache


def weights(work: Workspace, domain: str) -> dict[str, torch.Tensor]:
    return load_tensors(work.expert_folder(domain) / "adapter_model.safetensors")


def stages(work: Workspace, **over: object) -> dict[str, object]:
    return work.run.stages.model_dump(mode="json") | over


def cache_files(work: Workspace) -> dict[Path, int]:
    """Modification times of the cache files."""
    return {path: path.stat().st_mtime_ns for path in (work.out / "cache").rglob("*.bin")}


def test_cached_states_give_the_same_trained_weights(make_work: Make) -> None:
    plain = make_work("plain")
    cached = make_work("cached", stages=stages(plain, cache_trunk=True))
    for work in (plain, cached):
        train_domain(work, "news")
    assert not cache_files(plain)
    assert len(cache_files(cached)) == 1
    for key, tensor in weights(plain, "news").items():
        torch.testing.assert_close(weights(cached, "news")[key], tensor, atol=1e-4, rtol=1e-3)


def test_all_stages_of_a_run_share_one_cache_file_per_task(make_work: Make) -> None:
    plain = make_work("plain")
    work = make_work("run", stages=stages(plain, cache_trunk=True))
    for domain in ("news", "forum"):
        train_domain(work, domain)
    before = cache_files(work)
    merge_experts(work)
    train_router(work)
    assert cache_files(work) == before
    assert len(before) == 2


@pytest.mark.parametrize("damage", ["sign", "cut", "manifest", "offsets"])
def test_damaged_states_are_named_and_computed_again(
    damage: str, make_work: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work()
    model = build_expert_model(work.run, "news", build_adapter, True, seed=0).eval()
    collator = Collator(model.loaded_backbone.tokenizer, "{text}", 16, model.labels, ["news"])
    rows = work.rows("train", ["news"])
    cache = TrunkCache(model, collator, tmp_path / "cache")
    cache.fill(rows)
    expected = cache([rows[i] for i in (3, 0, 7)]).clone()
    (folder,) = (tmp_path / "cache").iterdir()
    content = (folder / "states.bin").read_bytes()
    if damage == "sign":
        (folder / "states.bin").write_bytes(bytes(byte ^ 128 * (i % 4 == 3) for i, byte in enumerate(content)))
    elif damage == "cut":
        (folder / "states.bin").write_bytes(content[:-100])
    elif damage == "manifest":
        write_json(folder / "manifest.json", {"sha256": {}})
    else:
        save_tensors(folder / "offsets.safetensors", {"offsets": torch.arange(5)})
        write_manifest(folder)
    capsys.readouterr()
    again = TrunkCache(model, collator, tmp_path / "cache")
    again.fill(rows)
    message = " ".join(capsys.readouterr().err.split())
    assert "the cached trunk states are not used and are computed again" in message
    torch.testing.assert_close(again([rows[i] for i in (3, 0, 7)]), expected, atol=0, rtol=0)
    assert (folder / "states.bin").read_bytes() == content


def test_cached_states_equal_the_trunk_s_and_depend_on_the_template(make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    model = build_expert_model(work.run, "news", build_adapter, True, seed=0).eval()
    rows = work.rows("train", ["news"])
    for template in ("{text}", "read: {text}"):
        collator = Collator(model.loaded_backbone.tokenizer, template, 16, model.labels, ["news"])
        cache = TrunkCache(model, collator, tmp_path / "cache")
        cache.fill(rows)
        batch = [rows[i] for i in (3, 0, 7)]
        states = cache(batch)
        expected, _ = model.encode_trunk(*collator.tokens([row["text"] for row in batch]))
        for state, computed, length in zip(
            states, expected, collator.lengths([row["text"] for row in batch]), strict=True
        ):
            torch.testing.assert_close(state[:length], computed[:length], atol=1e-5, rtol=1e-4)
            assert not state[length:].any()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_interrupted_cache_leaves_no_file(make_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work()
    model = build_expert_model(work.run, "news", build_adapter, True, seed=0).eval()
    collator = Collator(model.loaded_backbone.tokenizer, "{text}", 16, model.labels, ["news"])
    monkeypatch.setattr(model, "encode_trunk", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        TrunkCache(model, collator, tmp_path / "cache").fill(work.rows("train", ["news"]))
    assert not list((tmp_path / "cache").iterdir())
