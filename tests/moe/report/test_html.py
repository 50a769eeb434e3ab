"""Tests for the report's files: a self-contained page, escaped names and texts, sections, the model card."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from result_samples import evaluation, label_metrics
from rich.console import Console
from training_logs import step_line, write_evaluated_run, write_log, write_run, write_text

from experts.json_io import json_object
from moe.errors import Fault
from moe.plots.colours import DOMAIN_COLOURS
from moe.report.html import write_report
from moe.report.terminal import training_view
from moe.results.evaluation import RoutingReport
from moe.results.training import RunReport


@pytest.fixture(autouse=True)
def _fake_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the slow rendering of plots, which `tests/moe/plots` and the command tests cover."""
    charts = ("sections.reliability_chart", "sections.risk_coverage_chart")
    for name in ("plots.training.to_png", "plots.results.to_png", *(f"report.{chart}" for chart in charts)):
        monkeypatch.setattr(f"moe.{name}", lambda *_, **__: b"\x89PNG")


class Reader(HTMLParser):
    """Collects tags, link targets and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def printed(report: dict[str, object]) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(training_view(report))
    return capture.get()


def test_page_embeds_its_figures_and_links_nowhere_else(tmp_path: Path) -> None:
    report = write_report(write_run(tmp_path / "run"))
    folder = tmp_path / "run" / "report"
    page = read(folder / "index.html")
    assert page.tags.count("img") == len(report.pictures) == 2 + 3 * 5
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in page.targets)
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.json", "card.md", *report.pictures}
    assert RunReport.model_validate_json((folder / "report.json").read_text()) == report
    for word in (
        "Best by validation macro-F1: moe-joint",
        "Seed: 42",
        "majority",
        "95.0%",
        "90.0",
        "Mean routing weight",
    ):
        assert word in page.text


def test_report_with_a_second_run_is_written_to_the_given_folder(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "dao"), write_run(tmp_path / "constant", timed=False)
    report = write_report(run, other, tmp_path / "out")
    page = read(tmp_path / "out" / "index.html")
    assert "dao against constant" in page.text
    assert not (run / "report").exists()
    assert report.against == str(other)
    assert "Macro-F1 of the mixtures on validation rows of constant" in page.text


def test_names_are_escaped_in_html(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a<b>&c")
    write_log(run / "logs" / "<script>", step_line(1))
    write_report(run)
    page = read(run / "report" / "index.html")
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "a<b>&c" in page.text


def test_report_of_a_run_with_a_partial_log_has_a_page(tmp_path: Path) -> None:
    write_log(tmp_path / "run" / "logs" / "deep" / "news", step_line(1), '{"step": 2, "lo')
    report = write_report(tmp_path / "run")
    page = read(tmp_path / "run" / "report" / "index.html")
    assert report.pictures == ["deep-news-losses.png"]
    assert "Not included" in page.text
    assert "no result.json" in page.text
    assert "deep/news (not finished)" in printed(report)


def test_terminal_tables_show_stages_metrics_and_the_page(tmp_path: Path) -> None:
    output = printed(write_report(write_run(tmp_path / "run")))
    for word in ("s/step", "peak MiB", "moe-joint", "0.800", "1.050", "120", "majority", "index.html"):
        assert word in output


def test_report_refuses_an_unwritable_or_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Fault, match="can be written"):
        write_report(write_run(tmp_path / "run"), out=tmp_path / "file")
    with pytest.raises(Fault, match="run folder"):
        write_report(tmp_path / "run", against=tmp_path / "nowhere")


HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> | [a](javascript:b)"


def test_report_of_an_evaluated_run_has_every_section(tmp_path: Path) -> None:
    report = write_report(write_evaluated_run(write_run(tmp_path / "run")))
    page = read(tmp_path / "run" / "report" / "index.html")
    for word in (
        "Rows of each task",
        "0.100–0.900",
        "news: metrics by class",
        "without-news",
        "of each expert",
        "backbone default",
    ):
        assert word.lower() in page.text.lower()
    for word in ("predicted positive, 0.970", "label negative", "forum: positive 0.70"):
        assert word in page.text
    names = {"data-labels", "test-routing", "test-confusion", "test-reliability", "test-risk_coverage", "test-experts"}
    assert {f"{name}.png" for name in names} <= set(report.pictures)
    assert not [sentence for sentence in report.left_out if "moe evaluate" in sentence or "moe ablate" in sentence]


def test_missing_sections_name_the_command_that_creates_them(tmp_path: Path) -> None:
    report = write_report(write_run(tmp_path / "run"))
    page = read(tmp_path / "run" / "report" / "index.html")
    for command in ("run moe evaluate.", "run moe ablate.", "run moe evaluate --per-expert."):
        assert command in page.text
        assert any(command in sentence for sentence in report.left_out)


def test_texts_are_escaped_in_html_and_markdown(tmp_path: Path) -> None:
    run = write_evaluated_run(write_run(tmp_path / "run"), HOSTILE)
    write_report(run)
    page = read(run / "report" / "index.html")
    assert HOSTILE in page.text
    assert "script" not in page.tags
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in page.targets)
    assert "<script>" not in (run / "report" / "card.md").read_text(encoding="utf-8")


def test_every_figure_has_an_alternative_text_and_every_table_a_header(tmp_path: Path) -> None:
    write_report(write_evaluated_run(write_run(tmp_path / "run")))
    html = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert 'alt=""' not in html
    assert html.count("<img") == html.count("alt=")
    assert html.count("<table>") == html.count("<thead>")
    assert "prefers-color-scheme: dark" in html


def test_card_has_front_matter_metrics_and_hashes_but_no_texts(tmp_path: Path) -> None:
    report = write_report(write_evaluated_run(write_run(tmp_path / "run<b>")))
    card = Path(report.card).read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "text-classification"
    for word in ("# run&lt;b>", "| news | 2 | 0.500 | 0.100–0.900 |", "`" + "ab" * 32 + "`", "## Ablations"):
        assert word in card
    assert "profit fell" not in card, "texts are not quoted"


def test_report_of_a_language_model_shows_its_questions(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    card = json.loads((run / "moe-joint" / "mixture.json").read_text())
    (run / "moe-joint" / "mixture.json").write_text(json.dumps(card | {"language": True}))
    questions = {"tasks": {"fpb": {"questions": 9, "accuracy": 0.5, "accuracy_interval": [0.2, 0.8], "missing": 0.1}}}
    write_text(run / "evaluation" / "moe-joint" / "questions.json", json.dumps(questions))
    report = write_report(run)
    page = read(run / "report" / "index.html")
    assert "fpb" in page.text
    assert "Most confident errors" not in page.text
    assert "text-generation" in Path(report.card).read_text(encoding="utf-8")


class Tables(HTMLParser):
    """Collects the cells of each table's header and rows."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_data(self, data: str) -> None:
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data.strip() and f"{data.strip()} "


def write_run_of_twelve(folder: Path) -> list[str]:
    """Write a run with results of twelve domains, names in no alphabetical order."""
    names = [f"domain_{letter}_names" for letter in "lkjihgfedcba"]
    models = (
        "majority",
        "tfidf",
        "shared expert",
        "own expert",
        "pooled LoRA",
        "moe-init",
        "router-warmup",
        "moe-joint",
    )
    metrics = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "macro_f1": 0.4, "macro_f1_interval": [0.3, 0.5]}
    routing = RoutingReport(accuracy=0.5, entropy=0.9, table={name: dict.fromkeys(names, 1 / 12) for name in names})
    summary = {
        "figures": {
            model: dict.fromkeys(names, metrics) for model in (*models, "moe-joint, hard", "moe-joint, pinned")
        },
        "means": dict.fromkeys(models, metrics | {"macro_f1": 0.456}),
        "routing": routing,
        "best": "moe-joint",
    }
    domains = [{"name": name, "experts": [name], "tasks": {name: ["a", "b"]}} for name in names]
    for file, content in {
        "summary.json": summary,
        "result.json": {"best": "moe-joint", "verdict": "so", "validation": {}},
        "moe-joint/mixture.json": {"domains": domains},
        "evaluation/moe-joint/metrics.json": evaluation(
            {name: label_metrics(["a", "b"], [[5, 0, 0], [4, 0, 0]]) for name in names}, routing=routing
        ),
    }.items():
        write_text(folder / file, json.dumps(content, default=json_object))
    for name in sorted(names):
        prepared = {"task": name, "rows": 9, "splits": {"test": {"rows": 9, "labels": {"a": 5, "b": 4}}}}
        write_text(folder / "data" / name / name / "prepared.json", json.dumps({"report": prepared}))
    return names


def test_no_table_of_twelve_domains_is_wider_than_the_page(tmp_path: Path) -> None:
    names = write_run_of_twelve(tmp_path / "run")
    write_report(tmp_path / "run")
    parser = Tables()
    parser.feed((tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8"))
    for table in parser.tables:
        header, *rows = table
        widths = [max(len(word) for row in table for word in row[i].split() or [""]) for i in range(len(header))]
        assert sum(widths) + 2 * len(widths) <= 100, header
        assert all(len(row) == len(header) for row in rows)
    first = parser.tables[0]
    assert [row[0].strip() for row in first[1:]] == [*names, "mean"], "domains as rows, in the order of the config"
    assert first[1][1].split() == ["0.400", "±.100"]
    assert first[-1][1].split()[0] == "0.456", "the mean"


def test_page_names_classes_that_are_never_predicted_and_the_colour_of_each_domain(tmp_path: Path) -> None:
    names = write_run_of_twelve(tmp_path / "run")
    report = write_report(tmp_path / "run")
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert report.never_predicted.startswith(f"never predicted: b ({names[0]}); b ({names[1]})")
    assert f"Never predicted: b ({names[0]})" in page
    for colour in DOMAIN_COLOURS:
        assert f'style="background: {colour}"' in page


def test_page_states_the_conclusions_below_the_verdict(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    write_text(run / "summary.json", json.dumps(summary | {"conclusions": ["the mixture is better than TF-IDF"]}))
    report = write_report(run)
    text = read(run / "report" / "index.html").text
    assert "the mixture is better than TF-IDF." in text
    assert "the mixture is better than TF-IDF" in printed(report)
    assert "the mixture is better than TF-IDF" in Path(report.card).read_text(encoding="utf-8")


def test_memory_is_called_that_of_the_stage_only_where_the_log_says_so(tmp_path: Path) -> None:
    write_log(tmp_path / "run" / "logs" / "news", step_line(1, memory_mib=9.0, memory_of="stage", device="cpu"))
    write_report(tmp_path / "run")
    text = read(tmp_path / "run" / "report" / "index.html").text
    assert "resident set size of the process in the stage." in text
    write_log(tmp_path / "run" / "logs" / "news", step_line(1, memory_mib=9.0, device="cpu"))
    write_report(tmp_path / "run")
    assert "including earlier stages" in read(tmp_path / "run" / "report" / "index.html").text
