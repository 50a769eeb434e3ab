"""Tests of the documentation site: it has every page, loads nothing from other servers, and fails on broken links."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from module_files import load_module

from experts.yaml_io import read_yaml

ROOT = Path(__file__).parent.parent
BUILD = (sys.executable, "-m", "mkdocs", "build", "--strict")  # with --quiet, --strict would ignore warnings
OTHERS = r"\"?(?:https?:)?//"
ASSET = re.compile(rf"<(?:script|img|iframe)[^>]+src={OTHERS}|<link[^>]+stylesheet[^>]+href={OTHERS}")
links = load_module(ROOT / "docs" / "hooks" / "links.py")


def navigation_pages(part: Any) -> list[str]:
    """Return the pages of a navigation, in order."""
    if isinstance(part, str):
        return [part]
    return [page for entry in (part.values() if isinstance(part, dict) else part) for page in navigation_pages(entry)]


def test_navigation_lists_every_page() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | set(links.ROOTED.values())
    assert sorted(navigation_pages(read_yaml(ROOT / "mkdocs.yml")["nav"])) == sorted(pages)


def test_images_are_smaller_than_150_kb() -> None:
    images = list((ROOT / "docs").rglob("*.png"))
    assert len(images) > 5
    assert all(path.stat().st_size < 150_000 for path in images)


@pytest.mark.parametrize(
    ("page", "markdown", "expected"),
    [
        ("method.md", "[a](../moe/config/stages.py)", "[a](source/moe/config/stages.py.md)"),
        ("index.md", "[a](../README.md#limits)", "[a](readme.md#limits)"),
        ("readme.md", "[a](docs/data.md#scores), [b](LICENSE)", "[a](data.md#scores), [b](source/LICENSE.md)"),
        ("index.md", "[a](data.md), [b](#here), [c](https://x.org/y.md)", None),
        ("index.md", "```text\n[a](../README.md)\n```", None),
    ],
)
def test_links_are_rewritten_to_paths_on_the_site(page: str, markdown: str, expected: str | None) -> None:
    class Page:
        class file:  # noqa: N801
            src_uri = page

    assert links.on_page_markdown(markdown, Page, None, None) == (markdown if expected is None else expected)


def build_site(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build the site with a config."""
    command = [*BUILD, "--config-file", str(config), "--site-dir", str(out)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )


@pytest.mark.slow
def test_site_builds_and_loads_nothing_from_other_servers(tmp_path: Path) -> None:
    process = build_site(ROOT / "mkdocs.yml", tmp_path)
    assert process.returncode == 0, process.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert not [path for path, text in pages.items() if ASSET.search(text)]
    reference = pages[tmp_path / "api" / "index.html"]
    for name in ("FinMoEModel.predict_proba", "pipeline", "MixtureEstimator.fit"):
        assert f".{name}" in reference


@pytest.mark.slow
@pytest.mark.parametrize("link", ["missing.md", "data.md#no-such-heading", "../moe/missing.py"])
def test_site_build_fails_on_broken_links(tmp_path: Path, link: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Start\n\n[broken]({link})\n", encoding="utf-8")
    (tmp_path / "docs" / "data.md").write_text("# Data\n", encoding="utf-8")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[0]
    text = text.replace("docs/hooks", f"{ROOT}/docs/hooks").replace(
        "  - mkdocstrings:", "  - mkdocstrings:\n      enabled: false"
    )
    (tmp_path / "mkdocs.yml").write_text(text, encoding="utf-8")
    process = build_site(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert process.returncode != 0
    assert link.split("/")[-1].split("#")[-1] in process.stderr
