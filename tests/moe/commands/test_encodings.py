"""Every command prints whatever the console's encoding, and JSON lines are UTF-8 or escaped."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe.commands.main import main
from moe.commands.streams import replace_unencodable
from moe.console import format_json, set_verbosity

ENCODINGS = ("cp1252", "latin-1", "ascii", "utf-8")
TEXTS = ["Profit rose 😀 – 利润上升", "Gewinn fiel für € 5", "profit \u0641 → ≥"]
ROOT = Path(__file__).parents[3]
READY = ["infer", "-m", "ready"]


class Stream(io.TextIOWrapper):
    """A standard stream of a console or a pipe with some encoding, whose bytes can be read back."""

    def __init__(self, encoding: str, content: bytes = b"", terminal: bool = False) -> None:
        self.bytes, self.terminal = io.BytesIO(content), terminal
        super().__init__(self.bytes, encoding=encoding)

    def isatty(self) -> bool:
        return self.terminal

    @property
    def written(self) -> bytes:
        self.flush()
        return self.bytes.getvalue()


def run(
    monkeypatch: pytest.MonkeyPatch, words: list[str], encoding: str, stdin: bytes = b"", terminal: bool = False
) -> tuple[int, bytes, bytes]:
    """Run a command with standard streams of an encoding; return exit code, standard output and standard error."""
    out, err = Stream(encoding, terminal=terminal), Stream(encoding)
    err.reconfigure(errors="backslashreplace")  # as Python opens it
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(sys, "stdin", Stream(encoding, stdin))
        patch.setattr(sys, "argv", ["moe", *words])
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return code, out.written, err.written


@pytest.fixture(autouse=True)
def restore_verbosity() -> Iterator[None]:
    """Commands of a test may not leave this process quiet."""
    yield
    set_verbosity(quiet=False, verbose=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file whose name, columns and cells are not ASCII."""
    path = tmp_path / "数据-é.csv"
    rows = [f"{text},{label},利\n" for text in TEXTS for label in ("涨", "跌")]
    path.write_text("text,label,lang\n" + "".join(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_of_inspect_is_the_same_in_every_encoding(
    data: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(monkeypatch, ["data", "inspect", str(data)], encoding)
    assert code == 0, err
    report = json.loads(out.decode("utf-8"))
    assert (report["file"], report["labels"]) == (str(data), {"涨": 3, "跌": 3})
    assert out.isascii() is (encoding != "utf-8")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_help_and_faults_are_printed_in_every_encoding(
    data: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["data", "inspect", str(data)], ["--help"], ["infer", "--help"]):
        code, out, err = run(monkeypatch, words, encoding, terminal=True)
        assert code == 0, err
        assert len(out.decode(encoding).splitlines()) > 5
    code, _, err = run(monkeypatch, ["data", "inspect", "没有.csv"], encoding)
    assert (code, b"moe: Expected a file" in err) == (2, True)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_infer_prints_json_lines_and_tables_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run(monkeypatch, READY, encoding, "\n".join(TEXTS).encode())
    assert code == 0, err
    assert [json.loads(line)["text"] for line in out.decode("utf-8").splitlines()] == TEXTS
    code, out, err = run(monkeypatch, [*READY, *TEXTS], encoding, terminal=True)
    assert code == 0, err
    assert "profit" in out.decode(encoding)


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_infer_takes_the_byte_order_mark_off_standard_input(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(monkeypatch, READY, "utf-8", "profit rose\r\nbags fell\n".encode(mark))
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, [(row["line"], row["text"]) for row in rows]) == (0, [(1, "profit rose"), (2, "bags fell")])


def test_infer_reads_standard_input_as_a_file_of_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"profit rose\n\n \xe3\x80\x80 \nbad \xff\nnul \0\n\xe2\x80\x8b\nlast"
    (tmp_path / "a.txt").write_bytes(content)
    _, piped, _ = run(monkeypatch, READY, "utf-8", content)
    _, read, _ = run(monkeypatch, [*READY, "--file", str(tmp_path / "a.txt")], "utf-8")
    rows = [[json.loads(line) for line in out.splitlines()] for out in (piped, read)]
    assert rows[0] == [{key: value for key, value in row.items() if key != "id"} for row in rows[1]]
    assert ["error" in row for row in rows[0]] == [False, True, True, True, True, True, False]


VALUES = [
    *('"profit rose"', "NaN", "Infinity", "null", "5", "true", '["a"]', '{"a": 1}', '""'),
    *(r'"a \ud800"', r'"a \u0000"', "1e999", "9" * 400),
]
LINES = [
    *(f'{{"text": {value}, "target": {value}}}' for value in VALUES),
    *('{"text": "a", "text": "b"}', "[" * 50_000, f'{{"x": {"9" * 5000}}}', "{", '{"text": "bags fell"}'),
]


@pytest.mark.parametrize("ending", ["", "jsonl", "csv", "parquet"])
def test_infer_gives_an_error_row_for_each_line_without_a_text(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.jsonl").write_text("\n".join(LINES), encoding="utf-8")
    out = tmp_path / f"out.{ending}"
    words = [*READY, "--file", str(tmp_path / "odd.jsonl"), *(["--out", str(out)] if ending else [])]
    code, printed, err = run(monkeypatch, words, "utf-8")
    assert code == 0, err
    if ending in ("", "jsonl"):
        lines = (out.read_bytes() if ending else printed).decode().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["line"] for row in rows] == list(range(1, len(LINES) + 1))
        assert ["error" in row for row in rows] == [False, *[True] * (len(LINES) - 2), False]
        assert all(row["text"] is None or isinstance(row["text"], str) for row in rows)
    else:
        assert out.stat().st_size > 100


@pytest.mark.parametrize("option", ["--file", "--data"])
def test_command_refuses_a_pipe_at_once(tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    words = {"--file": [*READY, "--file", str(path)], "--data": ["data", "inspect", str(path)]}
    code, _, err = run(monkeypatch, words[option], "utf-8")
    assert (code, err.count(b"found a pipe (FIFO)")) == (2, 1)


def test_json_is_escaped_only_if_the_stream_needs_it() -> None:
    plain, escaped = '{"a": "é利"}', r'{"a": "\u00e9\u5229"}'
    printed = [format_json({"a": "é利"}, encoding) for encoding in (None, "UTF8", "cp1252", "ascii")]
    assert printed == [plain, plain, escaped, escaped]
    assert json.loads(format_json(["\udcff é"], "utf-8").encode()) == ["\udcff é"]


def test_characters_that_an_encoding_lacks_get_a_similar_sign_or_their_code_point() -> None:
    stream = Stream("ascii")
    replace_unencodable([stream])
    stream.write("a → b ≥ 5 … ─┼█ é 利 😀 \udcff")
    assert stream.written == rb"a -> b >= 5 ... -+# \xe9 \u5229 \U0001f600 \udcff"


POSIX = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "cp1252"}, POSIX], ids=["cp1252", "POSIX"])
def test_installed_command_prints_utf8_or_escapes_whatever_the_locale(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "moe", *READY, "利润 é 😀", "--json"]
    done = subprocess.run(
        command, env=os.environ | environment, cwd=ROOT, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("utf-8"))["text"] == "利润 é 😀"
