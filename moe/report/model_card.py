"""Model card of a run's best mixture in Markdown: metrics, calibration, provenance, and no texts of the data."""

from collections.abc import Iterator, Sequence

from experts.yaml_scalars import dump_yaml
from moe.report.blocks import ReportTable, Section
from moe.report.conclusions import draw_conclusions
from moe.report.data_rows import DATA
from moe.report.sections import (
    ABLATIONS,
    CALIBRATION,
    PROVENANCE,
    QUESTIONS,
    ROUTING,
    TEST_METRICS,
)
from moe.results.run import BestMixture, RunSummary
from moe.runs.findings import Findings
from moe.runs.reader import RunLogs

DEFAULT = "default"
CARD_SECTIONS = (DATA, TEST_METRICS, QUESTIONS, ROUTING, CALIBRATION, ABLATIONS)
"""Sections of the report that quote no texts."""


def format_model_card(run: RunLogs, findings: Findings, sections: Sequence[Section]) -> str:
    """Format the card, with the YAML front matter that model hubs read."""
    front_matter = dump_yaml(_front_matter(findings))
    return "\n".join(["---", front_matter + "---", "", *_body(run, findings, sections)]) + "\n"


def _front_matter(findings: Findings) -> dict[str, object]:
    tags = ["finmoe", "mixture-of-experts", "lora", "finance"]
    pipeline = "text-generation" if findings.card.get("language") else "text-classification"
    matter: dict[str, object] = {"library_name": "finmoe", "pipeline_tag": pipeline, "tags": tags}
    backbone = findings.card.get("backbone", {}).get("name", DEFAULT)
    return matter if backbone == DEFAULT else matter | {"base_model": backbone}


def _body(run: RunLogs, findings: Findings, sections: Sequence[Section]) -> Iterator[str]:
    yield f"# {escape_markdown(run.label)}"
    yield ""
    yield from _model_description(findings)
    result = run.result or BestMixture()
    if result.verdict:
        yield f"{escape_markdown(_capitalize(result.verdict))}."
        yield ""
    for sentence in draw_conclusions(run.summary or RunSummary(), result.best):
        yield f"- {escape_markdown(sentence)}"
    yield ""
    for section in (section for section in sections if section.title in CARD_SECTIONS):
        yield f"## {section.title}"
        yield ""
        yield from ([escape_markdown(section.note), ""] if section.note else [])
        for table in section.tables:
            yield from format_markdown_table(table)
        yield from (f"{escape_markdown(_capitalize(sentence))}\n" for sentence in section.missing)
    yield f"## {PROVENANCE}"
    yield ""
    rows = [[name, f"`{version}`"] for name, version in findings.provenance.items()]
    yield from format_markdown_table(ReportTable("", ["", "version or SHA-256"], rows))
    if run.seed is not None:
        yield f"Seed {run.seed}. "
    yield "Routing weights show which experts contribute to a prediction, not its certainty. Written by `moe report`."


def _model_description(findings: Findings) -> Iterator[str]:
    if not findings.card:
        yield "The run has no mixture yet."
        yield ""
        return
    backbone = escape_markdown(findings.card.get("backbone", {}).get("name", ""))
    gate = findings.card.get("gate", {}).get("kind", "")
    yield f"LoRA experts on a frozen backbone (`{backbone}`), mixed by a router with {gate} gates: `{findings.model}`."
    yield ""
    rows = [
        [
            domain["name"],
            ", ".join(domain["experts"]),
            "; ".join(
                ", ".join(labels) + (f" ({kind})" if (kind := domain.get("kinds", {}).get(task)) else "")
                for task, labels in domain.get("tasks", {}).items()
            ),
        ]
        for domain in findings.card.get("domains", [])
    ]
    yield from format_markdown_table(ReportTable("", ["domain", "experts", "labels"], rows))


def _capitalize(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def format_markdown_table(table: ReportTable) -> Iterator[str]:
    """Yield the lines of a Markdown table, with the first column aligned left and all others right."""
    if not table.rows:
        return
    if table.title:
        yield f"**{escape_markdown(table.title)}**"
        yield ""
    yield f"| {' | '.join(map(escape_markdown, table.header))} |"
    yield "|---|" + "---:|" * (len(table.header) - 1)
    yield from (f"| {' | '.join(map(escape_markdown, row))} |" for row in table.rows)
    yield ""


def escape_markdown(text: str) -> str:
    """Escape what Markdown would parse as a table, a tag or a link; line breaks become spaces."""
    flat = " ".join(str(text).split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("[", "\\[")
