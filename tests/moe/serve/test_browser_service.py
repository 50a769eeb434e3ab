"""Tests of the page in a browser, the service behind it: model card, busy service, missing package, chat."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import (
    BROWSER,
    INPUT,
    PHONE,
    browser,
    change_model_info,
    classify,
    click_classify,
    expect,
    folder,
    manager,
    open_page,
    scrolls_sideways,
    url,
)
from corpora import save_language_model
from mixtures import save_random_lm_mixture
from serving import build_manager, serve_in_thread

from moe.serve import engine_explain

__all__ = ["browser", "folder", "manager", "open_page", "url"]
pytestmark = BROWSER


def test_card_link_opens_what_the_model_was_trained_on(open_page: Any, url: str) -> None:
    page = open_page(url)
    page.get_by_role("link", name="What this model was trained on, and where it fails").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Mixture of domain experts")
    expect(page).to_have_title("mixture · model card")
    assert page.evaluate("getComputedStyle(document.body).margin") == "0px"  # the style sheet is loaded
    page.get_by_role("link", name="Classify texts with it").click()
    expect(page.locator("#input")).to_be_visible()


def test_card_link_is_hidden_for_a_model_without_card(open_page: Any, url: str) -> None:
    page = open_page(url)
    expect(page.locator("#card-line")).to_be_visible()
    change_model_info(page, url, card=False)
    expect(page.locator("#card-line")).to_be_hidden()


def test_page_retries_after_the_time_that_a_busy_service_gives(open_page: Any, url: str) -> None:
    page = open_page(url, quiet=True)
    expect(page.locator("#input")).to_be_visible()
    times: list[float] = []

    def busy(route: Any) -> None:
        times.append(page.evaluate("performance.now()"))
        if len(times) > 2:
            return route.continue_()
        return route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": {"message": "Full."}})

    page.route("**/v1/predict", busy)
    classify(page, "profit rose today")
    assert len(times) == 3
    assert times[1] - times[0] >= 1000


def test_page_shows_the_service_message_if_captum_is_missing(
    open_page: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise engine_explain.Fault("captum", "not installed", "install it: pip install 'finmoe[explain]'")

    monkeypatch.setattr(engine_explain, "load_captum", fail)
    page = open_page(url, quiet=True)
    classify(page, "profit rose today")
    page.get_by_role("button", name="Explain line 1").click()
    expect(page.locator(".explanation-box .error")).to_contain_text("pip install 'finmoe[explain]'")


def test_page_reports_a_service_that_cannot_be_reached(open_page: Any, url: str) -> None:
    page = open_page(url, quiet=True)
    expect(page.locator("#input")).to_be_visible()
    page.route("**/v1/predict", lambda route: route.abort())
    page.get_by_label(INPUT).fill("rates")
    click_classify(page)
    expect(page.get_by_role("alert").filter(has_text="cannot be reached")).to_be_visible()
    expect(page.locator("#status")).to_have_text("0 texts classified. 1 text remains: choose Classify to continue.")


def test_chat_with_a_language_model(open_page: Any, tmp_path: Path) -> None:
    folder = save_random_lm_mixture(tmp_path / "team", save_language_model(tmp_path / "llama", "llama"))
    manager = build_manager(folder, max_new_tokens=8)
    engine: Any = manager.served.engine
    engine.tokenizer.eos_token = None  # so that messages are not empty
    engine.model.loaded_backbone.lm_head.model.generation_config.eos_token_id = None
    with serve_in_thread(manager) as url:
        page = open_page(url, quiet=True, viewport=PHONE)
        expect(page.get_by_role("heading", level=1)).to_have_text("FinMoE: chat with a mixture of domain experts")
        page.get_by_label("Message", exact=True).fill("moon bags")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".messages .assistant .bars li")).to_have_count(3)
        messages = [{"role": "user", "content": "moon bags"}]
        body = httpx.post(f"{url}/v1/chat/completions", json={"messages": messages}, timeout=60).json()
        expect(page.locator(".messages .assistant p")).to_have_text(body["choices"][0]["message"]["content"])
        page.get_by_label("Message", exact=True).fill("<b>profit</b>")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#chat-status")).to_contain_text("chat template")  # without one, only one turn is possible
        expect(page.get_by_label("Message", exact=True)).to_be_focused()
        expect(page.get_by_label("Message", exact=True)).to_have_value("<b>profit</b>")
        expect(page.locator(".messages > li")).to_have_count(2)
        assert not scrolls_sideways(page)
        page.get_by_role("button", name="New chat").click()
        expect(page.locator(".messages > li")).to_have_count(0)
