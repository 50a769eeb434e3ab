"""Processors that are fast in bfloat16, by Linux's description of them."""

from pathlib import Path

import pytest

from moe.model import cpu_features
from moe.model.cpu_features import is_cpu_fast_in_bfloat16, is_fast_in_bfloat16


@pytest.mark.parametrize(
    ("vendor", "flags", "fast"),
    [
        ("GenuineIntel", "avx512f amx_bf16 amx_tile", True),
        ("GenuineIntel", "avx512f avx512_bf16", False),
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("AuthenticAMD", "avx2 fma", False),
        ("AuthenticAMD", "avx512f not_avx512_bf16", False),
    ],
)
def test_amx_and_amd_with_avx512_bf16_are_fast(vendor: str, flags: str, fast: bool) -> None:
    description = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: X\nflags\t\t: fpu {flags} sse\n"
    assert is_fast_in_bfloat16(description * 2) is fast


def test_unknown_cpu_is_not_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_fast_in_bfloat16("Features\t: fp asimd bf16\n")
    monkeypatch.setattr(cpu_features, "CPU_INFO", tmp_path / "missing")
    assert not is_cpu_fast_in_bfloat16()
