"""Claims about the site: every page stands in it, a broken link stops it, and it asks no other server for anything."""

import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from moe.config.yaml import read_yaml

ROOT = Path(__file__).parent.parent
BUILD = (sys.executable, "-m", "mkdocs", "build", "--strict")  # --quiet would count no warning, so let all pass
OTHERS = r"\"?(?:https?:)?//"
ASSET = re.compile(rf"<(?:script|img|iframe)[^>]+src={OTHERS}|<link[^>]+stylesheet[^>]+href={OTHERS}")
links: Any = module_from_spec(spec := spec_from_file_location("links", ROOT / "docs" / "hooks" / "links.py"))  # type: ignore[arg-type]
spec.loader.exec_module(links)  # type: ignore[union-attr]


def named(part: Any) -> list[str]:
    """The pages of a navigation, in its order."""
    if isinstance(part, str):
        return [part]
    return [page for entry in (part.values() if isinstance(part, dict) else part) for page in named(entry)]


def test_every_page_stands_in_the_navigation() -> None:
    there = {path.name for path in (ROOT / "docs").glob("*.md")} | set(links.ROOTED.values())
    assert sorted(named(read_yaml(ROOT / "mkdocs.yml")["nav"])) == sorted(there)


def test_pictures_are_small_enough_to_keep() -> None:
    pictures = list((ROOT / "docs").rglob("*.png"))
    assert len(pictures) > 5
    assert all(path.stat().st_size < 150_000 for path in pictures)


@pytest.mark.parametrize(
    ("source", "written", "turned"),
    [
        ("method.md", "[a](../moe/config/stages.py)", "[a](source/moe/config/stages.py.md)"),
        ("index.md", "[a](../README.md#limits)", "[a](readme.md#limits)"),
        ("readme.md", "[a](docs/data.md#scores), [b](LICENSE)", "[a](data.md#scores), [b](source/LICENSE.md)"),
        ("index.md", "[a](data.md), [b](#here), [c](https://x.org/y.md)", None),
        ("index.md", "```text\n[a](../README.md)\n```", None),
    ],
)
def test_links_lead_to_what_they_mean(source: str, written: str, turned: str | None) -> None:
    class Page:
        class file:  # noqa: N801
            src_uri = source

    assert links.on_page_markdown(written, Page, None, None) == (written if turned is None else turned)


def built(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """The site built by a config."""
    line = [*BUILD, "--config-file", str(config), "--site-dir", str(out)]
    return subprocess.run(line, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)


@pytest.mark.slow
def test_the_site_is_built_and_asks_no_other_server(tmp_path: Path) -> None:
    done = built(ROOT / "mkdocs.yml", tmp_path)
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert not [path for path, text in pages.items() if ASSET.search(text)]
    reference = pages[tmp_path / "api" / "index.html"]
    for name in ("MixtureClassifier.predict_proba", "pipeline", "MixtureEstimator.fit"):
        assert f".{name}" in reference


@pytest.mark.slow
@pytest.mark.parametrize("link", ["nowhere.md", "data.md#no-such-heading", "../moe/nowhere.py"])
def test_a_broken_link_stops_the_site(tmp_path: Path, link: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Start\n\n[broken]({link})\n", encoding="utf-8")
    (tmp_path / "docs" / "data.md").write_text("# Data\n", encoding="utf-8")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[0]
    text = text.replace("docs/hooks", f"{ROOT}/docs/hooks").replace(
        "  - mkdocstrings:", "  - mkdocstrings:\n      enabled: false"
    )
    (tmp_path / "mkdocs.yml").write_text(text, encoding="utf-8")
    done = built(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert link.split("/")[-1].split("#")[-1] in done.stderr
