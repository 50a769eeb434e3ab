"""Hooks of mkdocs for links out of docs/: pages outside docs/ are added to the site, other files are shown as pages.

So every relative link works both on GitHub and on the site, and none leads to another server.
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
"""Pages outside docs/, by their path in the repository, with their path on the site."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def site_path(target: str) -> str:
    """Return the site's path of a path in the repository."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return ROOTED.get(target, f"source/{target}.md")


def source_path(page: str) -> str:
    """Return the path in the repository of a page of the site."""
    return next((path for path, known in ROOTED.items() if known == page), f"docs/{page}")


def linked_paths(page: str, text: str) -> list[str]:
    """Return the paths in the repository that a page links to."""
    folder = posixpath.dirname(source_path(page))
    prose = FENCE.sub("", text)
    return [posixpath.normpath(posixpath.join(folder, link[1])) for link in LINK.finditer(prose)]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/, and a page for each other file that a page links to."""
    pages = {
        file.src_uri: (ROOT / "docs" / file.src_uri).read_text(encoding="utf-8") for file in files if is_page(file)
    }
    pages |= {page: (ROOT / path).read_text(encoding="utf-8") for path, page in ROOTED.items()}
    for page in ROOTED.values():
        files.append(File.generated(config, page, content=pages[page]))
    for target in sorted({path for page, text in pages.items() for path in linked_paths(page, text)}):
        if site_path(target).startswith("source/") and (ROOT / target).is_file():
            body = (ROOT / target).read_text(encoding="utf-8")
            content = f"# {target}\n\n````{Path(target).suffix.removeprefix('.')}\n{body}````\n"
            files.append(File.generated(config, site_path(target), content=content))
    return files


def is_page(file: File) -> bool:
    """Whether a file is a page in docs/."""
    return file.is_documentation_page() and (ROOT / "docs" / file.src_uri).is_file()


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Rewrite the links of a page to paths on the site."""
    path = page.file.src_uri
    if path.startswith("source/"):
        return markdown
    folder, site_folder = posixpath.dirname(source_path(path)), posixpath.dirname(path) or "."

    def rewrite(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        return posixpath.relpath(site_path(target), site_folder) + (link[2] or "")

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(rewrite, part) for part in parts)
