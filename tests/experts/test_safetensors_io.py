"""Tests of `experts.safetensors_io`: tensors of every type round-trip; what is not finite or complete is refused."""

from pathlib import Path

import pytest
import torch

from experts.errors import Fault
from experts.safetensors_io import check_finite, is_finite, load_tensors, save_tensors, tensor_names

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
FLOATS = tuple(dtype for dtype in (*TYPES, torch.float8_e4m3fn, torch.float8_e5m2) if dtype.is_floating_point)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tensors_are_loaded_as_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.arange(6).reshape(2, 3).to(dtype), "b.c": torch.ones((), dtype=dtype), "empty": torch.ones(0)}
    save_tensors(tmp_path / "x.safetensors", tensors)
    loaded = load_tensors(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert sorted(tensor_names(tmp_path / "x.safetensors")) == sorted(tensors)


def test_views_and_shared_storage_are_saved_as_values(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    save_tensors(
        tmp_path / "x", {"columns": base.T, "part": base[1:, ::2], "same": base, "trained": base.requires_grad_()}
    )
    loaded = load_tensors(tmp_path / "x")
    assert torch.equal(loaded["columns"], base.detach().T)
    assert loaded["part"].tolist() == [[4.0, 6.0], [8.0, 10.0]]
    assert torch.equal(loaded["same"], loaded["trained"])


def test_saving_replaces_an_older_file(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", {"old": torch.ones(1000)})
    save_tensors(tmp_path / "x", {"new": torch.zeros(2)})
    assert tensor_names(tmp_path / "x") == ["new"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_value_that_is_not_finite_is_seen_in_every_float_type(value: float, dtype: torch.dtype) -> None:
    tensor = torch.ones(300).index_fill(0, torch.tensor([123]), value).to(dtype)
    if not torch.isfinite(tensor.float()).all():  # e4m3fn has no infinity
        assert not is_finite(tensor)
    assert is_finite(torch.ones(300).to(dtype))


def test_infinities_of_both_signs_do_not_cancel() -> None:
    assert not is_finite(torch.tensor([float("inf"), float("-inf"), 0.0]))
    assert is_finite(torch.full((4,), torch.finfo(torch.float32).max)), "the sum overflows, the elements do not"


def test_check_names_the_first_tensor_and_passes_integers() -> None:
    tensors = {"steps": torch.tensor([1]), "fine": torch.ones(2), "bad": torch.tensor([float("nan")])}
    with pytest.raises(Fault, match=r"finite weights in the run; found NaN or infinity in bad. Train again"):
        check_finite(tensors, "the run", "train again")


def test_values_that_are_not_finite_are_saved_and_loaded_on_request_only(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(Fault, match="NaN or infinity in a"):
        save_tensors(path, {"a": torch.tensor([float("nan")])})
    assert not path.exists()
    save_tensors(path, {"a": torch.tensor([float("nan")])}, finite=False)
    with pytest.raises(Fault, match="lower learning rate"):
        load_tensors(path)
    assert load_tensors(path, finite=False)["a"].isnan().all()


@pytest.mark.parametrize("content", [b"", b"\x00" * 4, b"\xff" * 64, b"PK\x03\x04 a zip file with weights"])
def test_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for read in (load_tensors, tensor_names):
        with pytest.raises(Fault, match=r"a complete safetensors file at .*Copy or write it again"):
            read(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="no such file"):
        load_tensors(tmp_path / "nothing")
    with pytest.raises(Fault):
        tensor_names(tmp_path / "nothing")
    with pytest.raises(Fault, match="space and write permission for"):
        save_tensors(tmp_path / "no" / "folder", {"a": torch.ones(1)})
