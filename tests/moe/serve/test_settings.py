"""Claims about settings and keys: what is wrong is told, no door stands open, and only a key's owner is known by it."""

from pathlib import Path

import pytest

from experts.errors import Fault
from moe.serve.auth import find_key_owner, generate_key, hash_key
from moe.serve.settings import ServeSettings, check_keys_required, is_loopback, read_settings


def test_a_file_and_the_command_line_are_laid_over_each_other(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("port: 9000\nmax_texts: 3\n")
    settings = read_settings(tmp_path / "s.yaml", host=None, port=9001)
    assert (settings.host, settings.port, settings.max_texts) == ("127.0.0.1", 9001, 3)
    assert read_settings(None) == ServeSettings()


@pytest.mark.parametrize("wrong", ["prot: 1", "port: 70000", "timeout_s: 0", "keys: {me: short}", "max_wait_ms: .nan"])
def test_every_wrong_setting_is_told(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "s.yaml").write_text(f"queue_texts: -1\n{wrong}\n")
    with pytest.raises(Fault, match="queue_texts: ") as fault:
        read_settings(tmp_path / "s.yaml")
    assert wrong.split(":")[0] in str(fault.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", ""])
def test_no_door_stands_open_to_others_without_a_key(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(Fault, match="Make one with moe serve --new-key"):
        check_keys_required(ServeSettings(host=host))
    check_keys_required(ServeSettings(host=host, keys={"me": generate_key()["sha256"]}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_at_this_machine_alone_none_is_needed(host: str) -> None:
    check_keys_required(ServeSettings(host=host))


def test_a_key_is_known_by_its_hash_and_no_other_is() -> None:
    mine, yours = generate_key(), generate_key()
    keys = {"me": mine["sha256"], "you": yours["sha256"]}
    assert find_key_owner(mine["key"], keys) == "me"
    assert find_key_owner(yours["key"], keys) == "you"
    for other in (mine["sha256"], "", mine["key"][:-1], generate_key()["key"], "\ud800"):
        assert find_key_owner(other, keys) is None
    assert hash_key(mine["key"]) == mine["sha256"]
    assert mine["key"] != yours["key"]
