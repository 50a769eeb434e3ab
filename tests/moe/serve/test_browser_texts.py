"""Tests of the page in a browser, typed texts: predictions, examples, calibration, explanations, abstention."""

import re
from typing import Any

import httpx
import pytest
from browser import (
    BROWSER,
    INPUT,
    browser,
    change_model_info,
    classify,
    click_classify,
    expect,
    folder,
    manager,
    open_page,
    post_predict,
    url,
)

__all__ = ["browser", "folder", "manager", "open_page", "url"]
pytestmark = BROWSER


def test_page_states_its_purpose_and_links_the_api_reference(open_page: Any, url: str) -> None:
    page = open_page(url)
    heading = "FinMoE: classify financial text"
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    expect(page).to_have_title(f"mixture · {heading}")
    expect(page.locator("#model")).to_have_text("Model mixture: 2 experts (news, forum), backbone bert, calibrated")
    expect(page.get_by_role("link", name="API reference")).to_have_attribute("href", "openapi.json")
    assert httpx.get(f"{url}/openapi.json").json()["info"]["title"] == "FinMoE"


def test_page_predictions_match_the_service(open_page: Any, url: str) -> None:
    page = open_page(url)
    classify(page, "profit rose today\n\n  moon bags fell again  ")
    expected = post_predict(url, ["profit rose today", "moon bags fell again"])
    rows = page.locator("#rows > tbody > tr")
    expect(rows).to_have_count(2)
    for i, prediction in enumerate(expected):
        expect(rows.nth(i).locator(".text")).to_have_text(prediction["text"])
        expect(rows.nth(i).locator(".label b")).to_have_text(prediction["label"])
        expect(rows.nth(i).locator(".label .answer .number")).to_have_text(f"{prediction['confidence']:.0%}")
        expect(rows.nth(i).locator(".label")).to_contain_text(f"{abs(prediction['polarity']):.2f}")
        best = max(prediction["experts"], key=prediction["experts"].get)
        expect(rows.nth(i).locator(".experts li").first).to_contain_text(best)
        expect(rows.nth(i).locator(".probabilities li")).to_have_count(3)
    expect(page.get_by_text("The router sets the routing weights for each text")).to_be_visible()


@pytest.mark.parametrize("name", ["News", "Forum", "No signal"])
def test_example_button_fills_the_input_and_classifies_it(open_page: Any, url: str, name: str) -> None:
    page = open_page(url)
    examples = page.get_by_role("group", name="Try an example").get_by_role("button")
    expect(examples).to_have_count(3)
    example = examples.filter(has_text=name)
    text = example.text_content().removeprefix(name).strip()
    example.click()
    expect(page.locator("#status")).to_have_text("1 text classified.")
    expect(page.get_by_label(INPUT)).to_have_value(text)
    (expected,) = post_predict(url, [text])
    expect(page.locator("#rows .text")).to_have_text([text])
    expect(page.locator("#rows .label b")).to_have_text([expected["label"]])


def test_example_buttons_work_by_keyboard_one_after_another(open_page: Any, url: str) -> None:
    page = open_page(url)
    page.get_by_role("button", name="News").focus()
    for name in ("News", "Forum", "No signal"):
        example = page.get_by_role("button", name=name)
        expect(example).to_be_focused()
        text = example.text_content().removeprefix(name).strip()
        page.keyboard.press("Enter")
        expect(page.locator("#rows .text")).to_have_text([text])
        expect(page.locator("#status")).to_have_text("1 text classified.")
        page.keyboard.press("Tab")


def test_empty_input_is_reported_and_gets_the_focus(open_page: Any, url: str) -> None:
    page = open_page(url)
    click_classify(page)
    expect(page.locator("#status")).to_have_text("Enter a text or choose a file first.")
    expect(page.get_by_label(INPUT)).to_be_focused()
    expect(page.locator("#predictions")).to_be_hidden()


def test_percentages_are_rounded_but_never_to_certainty(open_page: Any, url: str) -> None:
    page = open_page(url)
    values = [0, 1e-9, 0.004, 0.005, 0.5, 0.994, 0.995, 0.9999, 1]
    shares = page.evaluate("async (values) => values.map((await import('/page/elements.js')).share)", values)
    assert shares == ["0%", "<1%", "<1%", "1%", "50%", "99%", ">99%", ">99%", "100%"]


@pytest.mark.parametrize(
    ("tasks", "statement"),
    [
        (["news", "forum"], "Probabilities are calibrated: on texts like those"),
        (["news"], "Probabilities of task news are calibrated: .* Those of other tasks are not."),
        ([], "Probabilities are not calibrated"),
    ],
)
def test_page_states_which_probabilities_are_calibrated(
    open_page: Any, url: str, tasks: list[str], statement: str
) -> None:
    page = open_page(url)
    change_model_info(page, url, calibrated=bool(tasks), calibrated_tasks=tasks)
    classify(page, "profit rose today")
    expect(page.locator("#calibration-hint")).to_have_text(re.compile(statement))
    expect(page.locator("#model")).to_have_text(re.compile(", calibrated$" if tasks else ", not calibrated$"))


def test_truncated_text_gets_a_warning(open_page: Any, url: str) -> None:
    page = open_page(url)
    classify(page, "profit rose today\n" + "profit rose " * 30)
    length = httpx.get(f"{url}/v1/model").json()["max_length"]
    warnings = page.locator("#rows .mark.warning")
    expect(warnings).to_have_count(1)
    expect(warnings).to_have_text(f"⚠ only the first {length} tokens were read")


def test_explanation_marks_the_strongest_words(open_page: Any, url: str) -> None:
    page = open_page(url)
    text = "rates 😀😀 profit rose today"
    classify(page, text)
    page.get_by_role("button", name="Explain line 1").click()
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    words = httpx.post(f"{url}/v1/explain", json={"text": text}, timeout=60).json()["why"]["words"]
    largest = max(abs(word["weight"]) for word in words)
    strong = [word for word in words if abs(word["weight"]) >= 0.2 * largest]
    marks = page.locator(".highlighted mark")
    expect(marks).to_have_count(len(strong))
    for i, word in enumerate(strong):
        expect(marks.nth(i)).to_have_text(f"{word['word']} ({'for' if word['weight'] > 0 else 'against'})")
    experts = page.get_by_role("table", name="Each expert alone").locator("tbody tr")
    assert sorted(experts.locator("th").all_text_contents()) == ["forum", "news"]
    page.get_by_role("button", name="Explain line 1").click()
    expect(page.locator(".explanation")).to_have_count(0)


def test_low_confidence_is_written_out_and_follows_the_slider(open_page: Any, url: str) -> None:
    page = open_page(url)
    classify(page, "profit rose today\nmoon bags fell again")
    slider = page.get_by_label("Low confidence below")
    slider.fill("1")
    expect(page.locator("#rows").get_by_text("low confidence")).to_have_count(2)
    page.get_by_label("Show", exact=True).select_option("low")
    expect(page.locator("#rows > tbody > tr")).to_have_count(2)
    slider.fill("0")
    expect(page.locator("#rows").get_by_text("low confidence")).to_have_count(0)
    expect(page.locator("#page-range")).to_have_text("none")


def test_target_accuracy_abstains_as_the_service_does(open_page: Any, url: str) -> None:
    page = open_page(url, quiet=True)
    page.get_by_text("Options").click()
    page.locator("#domain").select_option("news")
    page.get_by_label("Target accuracy").fill("90")
    classify(page, "profit rose today\nmoon bags fell again")
    expected = post_predict(url, ["profit rose today", "moon bags fell again"], domain="news", abstain=0.9)
    expect(page.locator("#rows .mark.none")).to_have_count(sum(prediction["abstained"] for prediction in expected))
    page.get_by_label("Target accuracy").fill("99")
    click_classify(page)
    expect(page.get_by_role("alert").filter(has_text="at best 0.900")).to_be_visible()
