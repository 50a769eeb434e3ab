"""What the site does with links that lead out of docs/: pages outside docs/ join the site, files are shown as pages.

So every link in a page holds on GitHub and on the site alike, and none leads to a server. mkdocs calls the functions.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
ROOTED = {
    "README.md": "readme.md",
    "README.zh.md": "readme.zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/NOTEBOOK.md": "notebook.md",
}
"""Pages outside docs/, and what they are called on the site."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def place_of(target: str) -> str:
    """Where the site has a path of the repository."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return ROOTED.get(target, f"source/{target}.md")


def home_of(source: str) -> str:
    """The path in the repository of a page of the site."""
    return next((path for path, known in ROOTED.items() if known == source), f"docs/{source}")


def linked(source: str, text: str) -> list[str]:
    """The paths in the repository that a page links to."""
    folder = posixpath.dirname(home_of(source))
    prose = FENCE.sub("", text)
    return [posixpath.normpath(posixpath.join(folder, match[1])) for match in LINK.finditer(prose)]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/, and each file that some page links to."""
    pages = {
        file.src_uri: (ROOT / "docs" / file.src_uri).read_text(encoding="utf-8") for file in files if is_page(file)
    }
    pages |= {source: (ROOT / path).read_text(encoding="utf-8") for path, source in ROOTED.items()}
    for source in ROOTED.values():
        files.append(File.generated(config, source, content=pages[source]))
    for target in sorted({link for source, text in pages.items() for link in linked(source, text)}):
        if place_of(target).startswith("source/") and (ROOT / target).is_file():
            body = (ROOT / target).read_text(encoding="utf-8")
            shown = f"# {target}\n\n````{Path(target).suffix.removeprefix('.')}\n{body}````\n"
            files.append(File.generated(config, place_of(target), content=shown))
    return files


def is_page(file: File) -> bool:
    """Whether a file is a page that docs/ holds."""
    return file.is_documentation_page() and (ROOT / "docs" / file.src_uri).is_file()


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Turn the links of a page to where the site has what they mean."""
    source = page.file.src_uri
    if source.startswith("source/"):
        return markdown
    folder, here = posixpath.dirname(home_of(source)), posixpath.dirname(source) or "."

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        return posixpath.relpath(place_of(target), here) + (match[2] or "")

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(turned, part) for part in parts)
