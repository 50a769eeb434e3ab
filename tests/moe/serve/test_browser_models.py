"""Tests of the page in a browser, several models: the choice, the requests that follow it, an unknown name."""

from collections.abc import Iterator
from typing import Any

import pytest
from browser import BROWSER, CONTRAST, INPUT, PHONE, browser, classify, expect, open_page, scrolls_sideways
from serving import copy_with_other_expert, serve_in_thread, write_mixture

from moe.inference.load import LoadOptions
from moe.serve.hosted_model import ModelSource
from moe.serve.server import load_manager
from moe.serve.settings import ServeSettings

__all__ = ["browser", "open_page"]
pytestmark = BROWSER
OTHER = "desk & Kurs"
"""Name of the second model, in characters that an address has to escape."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a service of two models."""
    folder = tmp_path_factory.mktemp("served")
    mixture = write_mixture(folder)
    copy = copy_with_other_expert(mixture, folder / "copied", value=0.5)
    sources = [ModelSource("first", mixture), ModelSource(OTHER, copy)]
    with serve_in_thread(load_manager(ServeSettings(), sources, LoadOptions(runtime="torch"))) as url:
        yield url


def test_chosen_model_answers_explains_and_shows_its_card(open_page: Any, url: str) -> None:
    page = open_page(url)
    sent: list[Any] = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.post_data_json))
    classify(page, "profit rose today")
    first = page.locator("#rows tbody").inner_text()
    choice = page.get_by_label("Model", exact=True)
    expect(choice).to_have_value("first")
    choice.select_option(OTHER)
    expect(page).to_have_title(f"{OTHER} · FinMoE: classify financial text")
    expect(choice).to_have_value(OTHER)
    expect(choice).to_be_focused()
    expect(page.get_by_label(INPUT)).to_have_value("profit rose today")  # what was typed stays
    classify(page, "profit rose today")
    assert page.locator("#rows tbody").inner_text() != first
    page.get_by_role("button", name="Explain line 1").click()
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    assert [body.get("model") for body in sent] == [None, OTHER, OTHER]
    page.get_by_role("link", name="What this model was trained on, and where it fails").click()
    expect(page).to_have_title("copied · model card")
    page.get_by_role("link", name="Classify texts with it").click()
    expect(choice).to_have_value(OTHER)
    expect(page.get_by_label(INPUT)).to_have_value("")


def test_unknown_model_in_the_address_is_reported_and_another_can_be_chosen(open_page: Any, url: str) -> None:
    page = open_page(f"{url}/?model=third", quiet=True)
    expect(page.get_by_role("alert").filter(has_text="Expected one of the models first")).to_be_visible()
    page.get_by_label("Model", exact=True).select_option("first")
    expect(page.locator("#input")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_choice_fits_a_phone_with_enough_contrast(open_page: Any, url: str, scheme: str) -> None:
    page = open_page(url, viewport=PHONE, color_scheme=scheme)
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    assert not scrolls_sideways(page)
    assert [text for ratio, text in page.evaluate(CONTRAST) if ratio < 4.5] == []
