"""Tests of the page's files: all are served, nothing is loaded from other sites, no text becomes HTML."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from serving import service_client, write_calibrated_mixture
from starlette.testclient import TestClient

from moe.plots import style as palette
from moe.serve.app import PAGE_FOLDER, PAGE_POLICY
from moe.serve.auth import generate_key

PAGE_FILES = sorted(PAGE_FOLDER.iterdir())
EXTERNAL = re.compile(r"https?:|//\w+\.\w|@import|url\(")
UNSAFE = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "DOMParser"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = write_calibrated_mixture(tmp_path_factory.mktemp("page"))
    with service_client(folder, keys={"me": generate_key()["sha256"]}) as client:
        yield client


class PageParser(HTMLParser):
    """Collects the tags, attributes and inline code of an HTML page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.inline += data if self.tags and self.tags[-1] in ("script", "style") else ""

    def values(self, attribute: str) -> list[str]:
        return [value for name, value in self.attributes if name == attribute]


@pytest.fixture(scope="module")
def page() -> PageParser:
    parser = PageParser()
    parser.feed((PAGE_FOLDER / "index.html").read_text(encoding="utf-8"))
    return parser


def test_page_needs_no_key_and_its_policy_allows_only_its_own_files(client: TestClient) -> None:
    response = client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"] == PAGE_POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert PAGE_POLICY.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in PAGE_POLICY
    assert client.get("/v1/model").status_code == 401


@pytest.mark.parametrize("file", PAGE_FILES, ids=lambda file: file.name)
def test_page_files_are_served_with_their_content_types(client: TestClient, file: Path) -> None:
    types = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    response = client.get(f"/page/{file.name}")
    assert response.content == file.read_bytes()
    assert response.headers["content-type"].startswith(types[file.suffix])
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/page/", "/page/none.js", "/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py"]
)
def test_page_folder_serves_no_other_files(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_page_colours_are_those_of_the_plots(client: TestClient) -> None:
    response = client.get("/page/palette.css")
    assert response.headers["content-type"].startswith("text/css")
    assert f"--blue: {palette.BLUE};" in response.text
    assert not re.search("|".join((palette.BLUE, palette.ORANGE)), (PAGE_FOLDER / "page.css").read_text(), re.I)


@pytest.mark.parametrize("file", PAGE_FILES, ids=lambda file: file.name)
def test_page_files_reference_no_other_site(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not EXTERNAL.search(text)


@pytest.mark.parametrize("file", [file for file in PAGE_FILES if file.suffix == ".js"], ids=lambda file: file.name)
def test_page_scripts_neither_write_html_nor_store_keys(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("// ")
    assert not [name for name in UNSAFE if name in text]
    assert len(text.splitlines()) <= 350
    assert max(map(len, text.splitlines())) <= 240


def test_page_has_no_inline_script_or_style(page: PageParser) -> None:
    assert not page.inline.strip()
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]


def test_page_uses_every_file(page: PageParser) -> None:
    used = {path.removeprefix("page/") for path in page.values("src") + page.values("href")}
    sources = [file.read_text(encoding="utf-8") for file in PAGE_FILES]
    used |= {name for source in sources for name in re.findall(r'from "\./(\w+\.js)"', source)}
    assert {file.name for file in PAGE_FILES} - {"index.html"} <= used


def test_page_has_every_id_that_scripts_and_labels_refer_to(page: PageParser) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    sources = [file.read_text(encoding="utf-8") for file in PAGE_FILES]
    referenced = {name for source in sources for name in re.findall(r'byId\("([\w-]+)"\)', source)}
    assert referenced <= set(ids)
    for attribute in ("for", "aria-labelledby", "aria-describedby"):
        assert {name for value in page.values(attribute) for name in value.split()} <= set(ids)
