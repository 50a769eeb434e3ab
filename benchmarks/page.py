"""Takes the pictures of the web page in docs/: `page.png` (1,280 px wide) and `page_phone.png` (390 px wide).

Run: `python benchmarks/page.py [--model ready] [--out docs]`. Serves the model with `moe serve` on a free port,
classifies texts in Chromium, and waits for the predictions. Needs playwright and Chromium (`--chromium PATH`).
"""

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parent.parent
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
TEXTS = """The retailer cut its forecast after weak sales.
Bought more calls, this is going to the moon
The board meets in Helsinki on 12 May.
The bank raised its dividend after a record profit."""
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5}


@contextmanager
def serve(model: str) -> Iterator[str]:
    """Serve a model; yields the URL, which the first line of the log gives."""
    command = [sys.executable, str(ROOT / "cli.py"), "serve", model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        try:
            url = None
            while url is None:
                line = process.stderr.readline()
                assert line, "the service ended before it served"
                url = json.loads(line).get("url") if line.startswith("{") else None
            yield url
        finally:
            process.terminate()


def take_desktop(page: Page, out: Path) -> None:
    """Picture of several texts, the explanation of the first, and the routing of all."""
    classify(page, TEXTS)
    page.get_by_role("button", name="Explain line 1").click()
    expect(page.get_by_role("heading", name="Why")).to_be_visible(timeout=60_000)
    save(page, out / "page.png")


def take_phone(page: Page, out: Path) -> None:
    """Picture of the last example: with entities, if the model has a task for them."""
    page.get_by_role("group", name="Try an example").get_by_role("button").last.click()
    expect(page.locator("#status")).to_contain_text("classified")
    save(page, out / "page_phone.png")


def classify(page: Page, texts: str) -> None:
    """Classify texts, one per line."""
    page.get_by_label("Type or paste one or more texts").fill(texts)
    page.get_by_role("button", name="Classify", exact=True).click()
    expect(page.locator("#status")).to_contain_text("classified")


def save(page: Page, path: Path) -> None:
    """Save the complete page with 256 colours, a third of the bytes."""
    page.mouse.move(0, 0)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True, animations="disabled")))
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ready", help="folder of a model or a run; default: the ready mixture")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the pictures")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="path of Chromium")
    options = parser.parse_args()
    with serve(options.model) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=ARGUMENTS)
        for take, settings in ((take_desktop, DESKTOP), (take_phone, PHONE)):
            page = browser.new_context(**settings).new_page()
            page.goto(url)
            expect(page.locator("#input")).to_be_visible()
            take(page, options.out)
        browser.close()


if __name__ == "__main__":
    main()
