"""Claims about locks: one process at a time in a folder; a lock of a dead process is replaced, others name a way on."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experts.errors import Fault
from experts.locks import RUN_LOCK, output_lock, run_lock


def written_lock(folder: Path) -> list[str]:
    """Process id, host and start of this process, as a lock holds them."""
    with run_lock(folder):
        return (folder / RUN_LOCK).read_text().splitlines()


def refusal(folder: Path) -> str:
    """Message of a lock that is held by another process."""
    with pytest.raises(Fault) as fault, run_lock(folder):
        pass
    return str(fault.value)


def test_run_lock_holds_process_host_and_start_and_is_removed(tmp_path: Path) -> None:
    process, _, start = written_lock(tmp_path)
    assert (int(process), start.isdigit()) == (os.getpid(), True)
    assert not list(tmp_path.iterdir())


def test_run_lock_is_entered_again_by_its_own_thread_and_refused_to_another(tmp_path: Path) -> None:
    refused: list[Fault] = []

    def enter() -> None:
        try:
            with run_lock(tmp_path):
                pass
        except Fault as fault:
            refused.append(fault)

    with run_lock(tmp_path), run_lock(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert (tmp_path / RUN_LOCK).exists()
    assert len(refused) == 1
    assert f"process {os.getpid()}" in str(refused[0])


def test_run_lock_of_a_folder_is_the_same_by_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    code = "from pathlib import Path; from experts.locks import run_lock\nwith run_lock(Path('link')): pass"
    with run_lock(Path("run")):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"found process {os.getpid()} on " in result.stderr


def test_run_lock_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    process, host, start = written_lock(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for dead in (f"{gone.pid}\n{host}\n{start}\n", f"{os.getppid()}\n{host}\n{int(start) + 1}\n"):  # the id used again
        (tmp_path / RUN_LOCK).write_text(dead)
        with run_lock(tmp_path):
            assert (tmp_path / RUN_LOCK).read_text().startswith(f"{process}\n")


def test_run_lock_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from experts.locks import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert f"process {holder.pid} on " in refusal(tmp_path)
    holder.kill()
    holder.wait()
    with run_lock(tmp_path):
        pass


@pytest.mark.parametrize("content", ["77\nelsewhere\n5\n", "", "no lock"])
def test_run_lock_that_cannot_be_checked_is_refused_with_the_file_to_delete(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN_LOCK).write_text(content)
    message = refusal(tmp_path)
    assert f"delete {tmp_path / RUN_LOCK}" in message
    assert ("process 77 on elsewhere" if content.startswith("77") else "names no process") in message


def test_run_lock_creates_its_folder_and_removes_it_if_it_stays_empty(tmp_path: Path) -> None:
    with run_lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())


def test_run_lock_is_taken_by_rank_0_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / RUN_LOCK).write_text("77\nelsewhere\n5\n")
    monkeypatch.setenv("RANK", "1")
    with run_lock(tmp_path):
        pass
    monkeypatch.setenv("RANK", "0")
    refusal(tmp_path)


def test_run_lock_in_a_place_that_is_no_folder_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "can be written" in refusal(tmp_path / "file" / "run")


def test_output_lock_is_beside_the_output(tmp_path: Path) -> None:
    with output_lock(tmp_path / "answers.csv"):
        assert [path.name for path in tmp_path.iterdir()] == [".answers.csv.lock"]
    assert not list(tmp_path.iterdir())
