"""A run's best mixture as a model card in Markdown: what it is, its figures, how honest it is, and what it is made of.

The sections are `moe.report.sections`'; texts of the run are not quoted here, only figures.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from moe.report.blocks import Section, ReportTable
from moe.runs.findings import Findings
from moe.runs.reader import RunLogs

DEFAULT = "default"
UNQUOTED = ("Data", "Test figures", "Questions", "Routing", "Reliability, risk and coverage", "Ablations")


def format_model_card(run: RunLogs, found: Findings, sections: Sequence[Section]) -> str:
    """The card, with the front matter that model hubs read."""
    head = yaml.safe_dump(_front_matter(found), sort_keys=False, allow_unicode=True)
    return "\n".join(["---", head + "---", "", *_body(run, found, sections)]) + "\n"


def _front_matter(found: Findings) -> dict[str, Any]:
    tags = ["finmoe", "mixture-of-experts", "lora", "finance"]
    kind = "text-generation" if found.card.get("language") else "text-classification"
    matter: dict[str, Any] = {"library_name": "finmoe", "pipeline_tag": kind, "tags": tags}
    backbone = found.card.get("backbone", {}).get("name", DEFAULT)
    return matter if backbone == DEFAULT else matter | {"base_model": backbone}


def _body(run: RunLogs, found: Findings, sections: Sequence[Section]) -> Iterator[str]:
    yield f"# {escape_markdown(run.label)}"
    yield ""
    yield from _what(found)
    if verdict := run.result.get("verdict"):
        yield f"{escape_markdown(verdict[:1].upper() + verdict[1:])}."
        yield ""
    for one in (one for one in sections if one.title in UNQUOTED):
        yield f"## {one.title}"
        yield ""
        yield from ([escape_markdown(one.note), ""] if one.note else [])
        for table in one.tables:
            yield from format_markdown_table(table)
        yield from (f"{escape_markdown(sentence[:1].upper() + sentence[1:])}\n" for sentence in one.missing)
    yield "## What it is made of"
    yield ""
    yield from format_markdown_table(ReportTable("", ["", "version or SHA-256"], [[a, f"`{b}`"] for a, b in found.provenance.items()]))
    if run.seed is not None:
        yield f"Seed {run.seed}. "
    yield "Shares say how a text was routed, not how sure the answer is. Made by `moe report`."


def _what(found: Findings) -> Iterator[str]:
    if not found.card:
        yield "The run has no mixture yet."
        yield ""
        return
    backbone, gate = (found.card.get(part, {}).get(name, "") for part, name in (("backbone", "name"), ("gate", "kind")))
    yield f"LoRA experts beside a frozen backbone (`{escape_markdown(backbone)}`), blended by a {gate} router: `{found.model}`."
    yield ""
    rows = [
        [
            one["name"],
            ", ".join(one["experts"]),
            "; ".join(", ".join(labels) for labels in one.get("tasks", {}).values()),
        ]
        for one in found.card.get("domains", [])
    ]
    yield from format_markdown_table(ReportTable("", ["domain", "experts", "labels"], rows))


def format_markdown_table(table: ReportTable) -> Iterator[str]:
    """A table's lines; the first column is left, the others right."""
    if not table.rows:
        return
    if table.title:
        yield f"**{escape_markdown(table.title)}**"
        yield ""
    yield f"| {' | '.join(map(escape_markdown, table.head))} |"
    yield "|---|" + "---:|" * (len(table.head) - 1)
    yield from (f"| {' | '.join(map(escape_markdown, row))} |" for row in table.rows)
    yield ""


def escape_markdown(text: str) -> str:
    """A text that Markdown takes for no table, tag or link."""
    flat = " ".join(str(text).split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("[", "\\[")
