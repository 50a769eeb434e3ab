"""A headless browser that opens the service's page, and the steps that tests take on it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from serving import build_manager, serve_in_thread, write_calibrated_mixture

from moe.serve.model_manager import ModelManager

CHROMIUM = Path("/usr/bin/chromium")
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium"),
]
"""Marks of a test module that opens the page."""
Page = Any
expect: Any = api.expect
expect.set_options(timeout=30_000)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PHONE = {"width": 360, "height": 740}
MODERN_PHONE = {"width": 390, "height": 844}
INPUT = "Type or paste one or more texts"
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => rgb.map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const ratios = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest(".visually-hidden, option, :disabled, noscript")) continue;
    const below = [];
    for (let box = element; box; box = box.parentElement) below.unshift(getComputedStyle(box).backgroundColor);
    const both = [paint([...below, getComputedStyle(element).color]), paint(below)];
    const [high, low] = both.map(luminance).sort((a, b) => b - a);
    ratios.push([(high + 0.05) / (low + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return ratios;
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny mixture with one calibrated task."""
    return write_calibrated_mixture(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def manager(folder: Path) -> ModelManager:
    """Manager of a service that takes at most 4 texts of 400 characters per request."""
    return build_manager(folder, max_texts=4, max_text_chars=400)


@pytest.fixture(scope="module")
def url(manager: ModelManager) -> Iterator[str]:
    """URL of the service."""
    with serve_in_thread(manager) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Page]]:
    """Opens pages; fails at the end if one raised an error or, unless `quiet`, logged one."""
    contexts, errors = [], []

    def open_(url: str, quiet: bool = False, **options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: line.type == "error" and not quiet and errors.append(line.text))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not errors


def click_classify(page: Page) -> None:
    """Choose Classify."""
    page.get_by_role("button", name="Classify", exact=True).click()


def classify(page: Page, text: str) -> None:
    """Enter a text, classify it and wait for the result."""
    page.get_by_label(INPUT).fill(text)
    click_classify(page)
    expect(page.locator("#status")).to_contain_text("classified")


def choose_file(page: Page, name: str, content: bytes) -> None:
    """Choose a file and wait for its options."""
    expect(page.locator("#input")).to_be_visible()
    page.locator("#file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})
    expect(page.locator("#file-options")).to_be_visible()


def download(page: Page, button: str) -> str:
    """Return the text of the file that a button downloads."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_text(encoding="utf-8")


def post_predict(url: str, texts: list[str], **fields: Any) -> list[dict[str, Any]]:
    """Return the answers of `POST /v1/predict`, without the page."""
    response = httpx.post(f"{url}/v1/predict", json={"texts": texts, **fields}, timeout=60)
    return cast(list[dict[str, Any]], response.json()["answers"])


def change_model_info(page: Page, url: str, **fields: Any) -> None:
    """Open the page again with other fields of `GET /v1/model`."""
    info = httpx.get(f"{url}/v1/model").json() | fields
    page.route("**/v1/model", lambda route: route.fulfill(json=info))
    page.reload()
    expect(page.locator("#input")).to_be_visible()


def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))
