"""Tests of settings, API keys and the checks before the service starts."""

from pathlib import Path

import pytest

from experts.errors import Fault
from moe.serve.auth import find_key_owner, generate_key, hash_key
from moe.serve.settings import ServeSettings, check_keys_required, is_loopback, read_settings


def test_settings_from_the_command_line_override_the_file(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("port: 9000\nmax_texts: 3\n")
    settings = read_settings(tmp_path / "s.yaml", host=None, port=9001)
    assert (settings.host, settings.port, settings.max_texts) == ("127.0.0.1", 9001, 3)
    assert read_settings(None) == ServeSettings()


@pytest.mark.parametrize("wrong", ["prot: 1", "port: 70000", "timeout_s: 0", "keys: {me: short}", "max_wait_ms: .nan"])
def test_settings_error_names_every_invalid_setting(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "s.yaml").write_text(f"queue_texts: -1\n{wrong}\n")
    with pytest.raises(Fault, match="queue_texts: ") as fault:
        read_settings(tmp_path / "s.yaml")
    assert wrong.split(":")[0] in str(fault.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", ""])
def test_host_that_others_can_reach_needs_a_key(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(Fault, match="Create a key with moe serve --new-key"):
        check_keys_required(ServeSettings(host=host))
    check_keys_required(ServeSettings(host=host, keys={"me": generate_key()["sha256"]}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_host_needs_no_key(host: str) -> None:
    check_keys_required(ServeSettings(host=host))


def test_key_is_recognised_by_its_hash_only() -> None:
    mine, yours = generate_key(), generate_key()
    keys = {"me": mine["sha256"], "you": yours["sha256"]}
    assert find_key_owner(mine["key"], keys) == "me"
    assert find_key_owner(yours["key"], keys) == "you"
    for other in (mine["sha256"], "", mine["key"][:-1], generate_key()["key"], "\ud800"):
        assert find_key_owner(other, keys) is None
    assert hash_key(mine["key"]) == mine["sha256"]
    assert mine["key"] != yours["key"]
