"""Tests of the page in a browser, access: keyboard, labels, phone, contrast, API key."""

from pathlib import Path
from typing import Any

import pytest
from browser import (
    BROWSER,
    CONTRAST,
    PHONE,
    browser,
    choose_file,
    classify,
    click_classify,
    expect,
    folder,
    manager,
    open_page,
    scrolls_sideways,
    url,
)
from serving import build_manager, serve_in_thread

from moe.serve.auth import generate_key

__all__ = ["browser", "folder", "manager", "open_page", "url"]
pytestmark = BROWSER
VISIBLE_FOCUS = """() => {
  const focused = document.activeElement;
  return getComputedStyle(focused.id === "file" ? focused.nextElementSibling : focused).outlineStyle;
}"""


def test_page_works_by_keyboard_with_visible_focus(open_page: Any, url: str) -> None:
    page = open_page(url)
    expect(page.locator("#input")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    for _ in ("News", "Forum", "No signal", "the text field"):
        page.keyboard.press("Tab")
    page.keyboard.type("profit rose today")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_have_text("1 text classified.")
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"))
        assert page.evaluate(VISIBLE_FOCUS) == "solid", names[-1]
        if names[-1] == "Explain line 1":
            break
    assert names == ["file", "Explain line 1"]
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    assert page.evaluate("document.activeElement.ariaExpanded") == "true"


def test_every_form_control_has_a_label(open_page: Any, url: str) -> None:
    page = open_page(url)
    expect(page.locator("#input")).to_be_visible()
    unlabelled = "[...document.querySelectorAll('input, select, textarea')].filter((field) => !field.labels.length)"
    assert page.evaluate(f"{unlabelled}.map((field) => field.id)") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_and_its_text_has_enough_contrast(open_page: Any, url: str, scheme: str) -> None:
    page = open_page(url, viewport=PHONE, color_scheme=scheme)
    expect(page.get_by_role("group", name="Try an example")).to_be_visible()
    assert not [ratio for ratio in page.evaluate(CONTRAST) if ratio[0] < 4.5]
    assert not scrolls_sideways(page)
    long_word = b"averyveryverylongwordwithoutanend" * 9
    choose_file(page, "long.csv", b"text,domain\n" + long_word + b",news\nmoon bags,forum\n")
    assert not scrolls_sideways(page)
    page.get_by_text("Options").click()
    click_classify(page)
    expect(page.locator("#status")).to_contain_text("classified")
    page.get_by_role("button", name="Explain line 2").click()
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    for summary in page.get_by_text("Show as table").all():
        summary.click()
    assert not scrolls_sideways(page)
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 50
    assert not [ratio for ratio in ratios if ratio[0] < 4.5]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 23)"
    assert dark == (scheme == "dark")


def test_page_prompts_for_the_key_and_keeps_it_in_this_tab_only(open_page: Any, folder: Path) -> None:
    mine = generate_key()
    with serve_in_thread(build_manager(folder, keys={"me": mine["sha256"]})) as url:
        page = open_page(url, quiet=True)
        field = page.get_by_label("This service requires an API key")
        field.fill("moe_wrong")
        page.get_by_role("button", name="Use this key").click()
        expect(page.get_by_text("This service does not accept that key.")).to_be_visible()
        field.fill(mine["key"])
        field.press("Enter")
        classify(page, "profit rose today")
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
        assert mine["key"] not in page.content()
        page.get_by_role("link", name="What this model was trained on").click()
        card = page.get_by_role("dialog")
        expect(card.get_by_role("heading", level=1)).to_contain_text("Mixture of domain experts")
        page.keyboard.press("Escape")
        expect(card).to_be_hidden()
        page.get_by_role("button", name="Forget API key").click()
        expect(field).to_be_visible()
        assert page.evaluate("sessionStorage.length") == 0
