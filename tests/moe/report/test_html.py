"""Claims about the written report: one page that needs no other file, whole files, nothing of a name taken for HTML."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from training_logs import evaluated, step, write_log, write_run

from moe.errors import Fault
from moe.report.html import write_report
from moe.report.terminal import training_view


@pytest.fixture(autouse=True)
def _drawn_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take long; that they can be drawn is `test_charts`'s claim and, through the command, `test_cli`'s."""
    for place in ("charts.png", "result_charts.png", "report_sections.reliability_chart", "report_sections.risk_chart"):
        monkeypatch.setattr(f"moe.{place}", lambda *_, **__: b"\x89PNG")


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
    report = write_report(write_run(tmp_path / "run"))
    folder = tmp_path / "run" / "report"
    page = read(folder / "index.html")
    assert page.tags.count("img") == len(report["pictures"]) == 2 + 3 * 5
    assert all(one.startswith(("data:image/png;base64,", "#")) for one in page.addresses)
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.json", "card.md", *report["pictures"]}
    assert json.loads((folder / "report.json").read_text()) == report
    for word in ("best by validation macro-F1: moe-joint", "Seed: 42", "majority", "95.0%", "90.0%", "Routing of test"):
        assert word in page.text


def test_another_run_is_laid_beside_and_the_report_goes_where_asked(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "dao"), write_run(tmp_path / "constant", timed=False)
    report = write_report(run, other, tmp_path / "out")
    page = read(tmp_path / "out" / "index.html")
    assert "dao against constant" in page.text
    assert not (run / "report").exists()
    assert report["against"] == str(other)
    assert "Validation of the mixtures of constant" in page.text


def test_a_name_is_never_taken_for_html(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a<b>&c")
    write_log(run / "logs" / "<script>", step(1))
    write_report(run)
    page = read(run / "report" / "index.html")
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "a<b>&c" in page.text


def test_a_run_with_little_to_tell_still_has_a_page(tmp_path: Path) -> None:
    write_log(tmp_path / "run" / "logs" / "deep" / "news", step(1), '{"step": 2, "lo')
    report = write_report(tmp_path / "run")
    page = read(tmp_path / "run" / "report" / "index.html")
    assert report["pictures"] == ["deep-news-losses.png"]
    assert "Left out" in page.text
    assert "no result.json" in page.text
    assert "deep/news (not finished)" in shown(report)


def test_tables_on_a_terminal_tell_stages_figures_and_the_page(tmp_path: Path) -> None:
    told = shown(write_report(write_run(tmp_path / "run")))
    for word in ("s/step", "peak MiB", "moe-joint", "0.800", "1.050", "120", "majority", "index.html"):
        assert word in told


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Fault, match="can be written"):
        write_report(write_run(tmp_path / "run"), out=tmp_path / "file")
    with pytest.raises(Fault, match="run folder"):
        write_report(tmp_path / "run", against=tmp_path / "nowhere")


HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> | [a](javascript:b)"


def test_a_measured_run_has_every_section_and_misses_none(tmp_path: Path) -> None:
    report = write_report(evaluated(write_run(tmp_path / "run")))
    page = read(tmp_path / "run" / "report" / "index.html")
    for word in (
        "Rows of each task",
        "0.100–0.900",
        "news: by class",
        "without-news",
        "expert by expert",
        "backbone default",
    ):
        assert word.lower() in page.text.lower()
    for word in ("said positive, 0.970", "label negative", "forum: positive 0.70"):
        assert word in page.text
    names = {"data-labels", "test-routing", "test-confusion", "test-reliability", "test-risk_coverage", "test-experts"}
    assert {f"{name}.png" for name in names} <= set(report["pictures"])
    assert not [sentence for sentence in report["left_out"] if "moe evaluate" in sentence or "moe ablate" in sentence]


def test_what_is_not_there_names_the_command_that_makes_it(tmp_path: Path) -> None:
    report = write_report(write_run(tmp_path / "run"))
    page = read(tmp_path / "run" / "report" / "index.html")
    for command in ("moe evaluate does it", "moe ablate does it", "moe evaluate --alone does it"):
        assert command in page.text
        assert any(command in sentence for sentence in report["left_out"])


def test_texts_are_never_taken_for_html_or_markdown(tmp_path: Path) -> None:
    run = evaluated(write_run(tmp_path / "run"), HOSTILE)
    write_report(run)
    page = read(run / "report" / "index.html")
    assert HOSTILE in page.text
    assert "script" not in page.tags
    assert all(one.startswith(("data:image/png;base64,", "#")) for one in page.addresses)
    assert "<script>" not in (run / "report" / "card.md").read_text(encoding="utf-8")


def test_every_picture_says_what_it_shows_and_every_table_has_heads(tmp_path: Path) -> None:
    write_report(evaluated(write_run(tmp_path / "run")))
    html = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert 'alt=""' not in html
    assert html.count("<img") == html.count("alt=")
    assert html.count("<table>") == html.count("<thead>")
    assert "prefers-color-scheme: dark" in html


def test_the_card_tells_figures_and_hashes_and_begins_as_hubs_read_it(tmp_path: Path) -> None:
    report = write_report(evaluated(write_run(tmp_path / "run<b>")))
    card = Path(report["card"]).read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "text-classification"
    for word in ("# run&lt;b>", "| news | 2 | 0.500 | 0.100–0.900 |", "`" + "ab" * 32 + "`", "## Ablations"):
        assert word in card
    assert "profit fell" not in card, "texts are not quoted"


def test_a_language_models_run_is_told_by_its_questions(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    card = json.loads((run / "moe-joint" / "mixture.json").read_text())
    (run / "moe-joint" / "mixture.json").write_text(json.dumps(card | {"language": True}))
    told = {"tasks": {"fpb": {"questions": 9, "accuracy": 0.5, "accuracy_interval": [0.2, 0.8], "missing": 0.1}}}
    (run / "evaluation" / "moe-joint" / "questions.json").write_text(json.dumps(told))
    report = write_report(run)
    page = read(run / "report" / "index.html")
    assert "fpb" in page.text
    assert "Most confident mistakes" not in page.text
    assert "text-generation" in Path(report["card"]).read_text(encoding="utf-8")
