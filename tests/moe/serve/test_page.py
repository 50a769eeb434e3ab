"""Claims about the page's files: all are served, none loads anything from elsewhere, none makes HTML of texts."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from serving import calibrated, client
from starlette.testclient import TestClient

from moe.plots import style as palette
from moe.serve.app import PAGE_FOLDER, PAGE_POLICY
from moe.serve.auth import generate_key

OURS = sorted(PAGE_FOLDER.iterdir())
ELSEWHERE = re.compile(r"https?:|//\w+\.\w|@import|url\(")
RISKY = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "DOMParser"]


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with client(calibrated(tmp_path_factory.mktemp("page")), keys={"me": generate_key()["sha256"]}) as one:
        yield one


class Reader(HTMLParser):
    """Collects tags, attributes, and what a page names."""

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

    def all(self, name: str) -> list[str]:
        return [value for one, value in self.attributes if one == name]


@pytest.fixture(scope="module")
def page() -> Reader:
    reader = Reader()
    reader.feed((PAGE_FOLDER / "index.html").read_text(encoding="utf-8"))
    return reader


def test_the_page_is_served_without_a_key_and_lets_only_its_own_files_in(asking: TestClient) -> None:
    got = asking.get("/")
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    assert got.headers["content-security-policy"] == PAGE_POLICY
    assert got.headers["x-content-type-options"] == "nosniff"
    assert PAGE_POLICY.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in PAGE_POLICY
    assert asking.get("/v1/model").status_code == 401


@pytest.mark.parametrize("file", OURS, ids=lambda one: one.name)
def test_every_file_of_it_is_served_as_what_it_is(asking: TestClient, file: Path) -> None:
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    got = asking.get(f"/page/{file.name}")
    assert got.content == file.read_bytes()
    assert got.headers["content-type"].startswith(kinds[file.suffix])
    assert got.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "address", ["/page/", "/page/none.js", "/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py"]
)
def test_nothing_else_is(asking: TestClient, address: str) -> None:
    assert asking.get(address).status_code == 404


def test_its_colours_are_those_of_every_picture(asking: TestClient) -> None:
    colours = asking.get("/page/palette.css")
    assert colours.headers["content-type"].startswith("text/css")
    assert f"--blue: {palette.BLUE};" in colours.text
    assert not re.search("|".join((palette.BLUE, palette.ORANGE)), (PAGE_FOLDER / "page.css").read_text(), re.I)


@pytest.mark.parametrize("file", OURS, ids=lambda one: one.name)
def test_no_file_names_another_place(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not ELSEWHERE.search(text)


@pytest.mark.parametrize("file", [one for one in OURS if one.suffix == ".js"], ids=lambda one: one.name)
def test_no_script_makes_html_of_texts_or_keeps_a_key(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("// ")
    assert not [word for word in RISKY if word in text]
    assert len(text.splitlines()) <= 350
    assert max(map(len, text.splitlines())) <= 240


def test_the_page_holds_no_script_and_no_style_of_its_own(page: Reader) -> None:
    assert not page.inline.strip()
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]


def test_every_file_is_used(page: Reader) -> None:
    named = {one.removeprefix("page/") for one in page.all("src") + page.all("href")}
    named |= {one for file in OURS for one in re.findall(r'from "\./(\w+\.js)"', file.read_text(encoding="utf-8"))}
    assert {one.name for one in OURS} - {"index.html"} <= named


def test_every_name_that_a_script_looks_for_is_in_the_page(page: Reader) -> None:
    names = page.all("id")
    assert len(names) == len(set(names))
    asked = {one for file in OURS for one in re.findall(r'byId\("([\w-]+)"\)', file.read_text(encoding="utf-8"))}
    assert asked <= set(names)
    assert set(page.all("for")) | set(page.all("aria-labelledby")) | set(page.all("aria-describedby")) <= set(names)
