"""Claims about the written report: one page that needs no other file, whole files, nothing of a name taken for HTML."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from logs import step, write_log, write_run
from rich.console import Console

from moe.errors import Fault
from moe.report import training_view
from moe.report_page import report_run


@pytest.fixture(autouse=True)
def _drawn_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take long; that they can be drawn is `test_charts`'s claim and, through the command, `test_cli`'s."""
    monkeypatch.setattr("moe.charts._png", lambda *_, **__: b"\x89PNG")


class Reader(HTMLParser):
    """Collects tags, addresses and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def shown(report: dict[str, object]) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(training_view(report))
    return capture.get()


def test_the_page_holds_its_pictures_and_points_nowhere_else(tmp_path: Path) -> None:
    report = report_run(write_run(tmp_path / "run"))
    folder = tmp_path / "run" / "report"
    page = read(folder / "index.html")
    assert page.tags.count("img") == len(report["pictures"]) == 1 + 3 * 5
    assert all(one.startswith(("data:image/png;base64,", "#")) for one in page.addresses)
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.json", *report["pictures"]}
    assert json.loads((folder / "report.json").read_text()) == report
    for word in ("best by validation macro-F1: moe-joint", "Seed: 42", "majority", "95.0%", "90.0%", "Routing of test"):
        assert word in page.text


def test_another_run_is_laid_beside_and_the_report_goes_where_asked(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "dao"), write_run(tmp_path / "constant", timed=False)
    report = report_run(run, other, tmp_path / "out")
    page = read(tmp_path / "out" / "index.html")
    assert "dao against constant" in page.text
    assert not (run / "report").exists()
    assert report["against"] == str(other)
    assert "Validation of the mixtures of constant" in page.text


def test_a_name_is_never_taken_for_html(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a<b>&c")
    write_log(run / "logs" / "<script>", step(1))
    report_run(run)
    page = read(run / "report" / "index.html")
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "a<b>&c" in page.text


def test_a_run_with_little_to_tell_still_has_a_page(tmp_path: Path) -> None:
    write_log(tmp_path / "run" / "logs" / "deep" / "news", step(1), '{"step": 2, "lo')
    report = report_run(tmp_path / "run")
    page = read(tmp_path / "run" / "report" / "index.html")
    assert report["pictures"] == ["deep-news-losses.png"]
    assert "Left out" in page.text
    assert "no result.json" in page.text
    assert "deep/news (not finished)" in shown(report)


def test_tables_on_a_terminal_tell_stages_figures_and_the_page(tmp_path: Path) -> None:
    told = shown(report_run(write_run(tmp_path / "run")))
    for word in ("s/step", "peak MiB", "moe-joint", "0.800", "1.050", "120", "majority", "index.html"):
        assert word in told


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Fault, match="can be written"):
        report_run(write_run(tmp_path / "run"), out=tmp_path / "file")
    with pytest.raises(Fault, match="run folder"):
        report_run(tmp_path / "run", against=tmp_path / "nowhere")
