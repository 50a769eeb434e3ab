"""Tests of the page in a browser, entities: fields, examples, grouping by text, limits."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import (
    BROWSER,
    CONTRAST,
    INPUT,
    MODERN_PHONE,
    Page,
    browser,
    change_model_info,
    classify,
    click_classify,
    download,
    expect,
    folder,
    manager,
    open_page,
    post_predict,
    scrolls_sideways,
    url,
)
from serving import build_manager, serve_in_thread, write_mixture

__all__ = ["browser", "folder", "manager", "open_page", "url"]
pytestmark = BROWSER


def serve_targets(page: Page, url: str) -> list[dict[str, Any]]:
    """Answer as a model with a task with a target, to odd targets positive; return the bodies of the requests."""
    change_model_info(page, url, targets=["entities"])
    requests: list[dict[str, Any]] = []

    def respond(route: Any) -> None:
        requests.append(route.request.post_data_json)
        body = dict(requests[-1])
        targets = body.pop("targets", None)
        response = httpx.post(f"{url}/v1/predict", json=body, timeout=60).json()
        if targets is not None:
            pairs = [(row, target) for row in response["answers"] for target in targets]
            response["answers"] = [to_target_row(row, target, targets.index(target) % 2) for row, target in pairs]
        route.fulfill(json=response)

    page.route("**/v1/predict", respond)
    return requests


def to_target_row(row: dict[str, Any], target: str, negative: int) -> dict[str, Any]:
    probabilities = (
        {"negative": 0.82, "neutral": 0.1, "positive": 0.08}
        if negative
        else {"negative": 0.02, "neutral": 0.07, "positive": 0.91}
    )
    label = max(probabilities, key=probabilities.__getitem__)
    answer = {"target": target, "label": label, "probabilities": probabilities, "confidence": probabilities[label]}
    missing = {} if target.lower() in row["text"].lower() else {"target_missing": True}
    return row | answer | missing


def test_entities_field_is_hidden_if_no_task_has_a_target(open_page: Any, url: str) -> None:
    page = open_page(url)
    expect(page.locator("#input")).to_be_visible()
    expect(page.get_by_label("Entities")).to_be_hidden()
    expect(page.get_by_role("button", name="Two companies")).to_be_hidden()


def test_example_with_entities_is_answered_for_each_and_shows_its_text_once(open_page: Any, url: str) -> None:
    page = open_page(url)
    requests = serve_targets(page, url)
    examples = page.get_by_role("group", name="Try an example").get_by_role("button")
    expect(examples).to_have_count(3)
    examples.last.click()
    expect(page.locator("#status")).to_have_text("1 text classified for 2 entities.")
    expect(page.get_by_label("Entities")).to_have_value("Apple, Microsoft")
    assert requests[0]["targets"] == ["Apple", "Microsoft"]
    expect(page.locator("#rows .text")).to_have_text(["Apple gains as Microsoft slips"])
    expect(page.locator("#rows .entity")).to_have_text(["Apple", "Microsoft"])
    expect(page.locator("#rows .answer")).to_have_text(["positive 91%", "negative 82%"])
    assert page.locator("#rows .mark.warning").count() == 0
    examples.first.click()
    expect(page.locator("#status")).to_have_text("1 text classified.")
    expect(page.get_by_label("Entities")).to_have_value("")
    assert "targets" not in requests[1]
    expect(page.locator("#rows .entity")).to_have_count(0)


def test_entities_and_their_explanation_match_the_service(open_page: Any, tmp_path: Path) -> None:
    with serve_in_thread(build_manager(write_mixture(tmp_path, targets=True))) as url:
        page = open_page(url)
        page.get_by_label("Entities").fill("Apple, Nokia")
        classify(page, "Apple gains as Microsoft slips\nprofit rose today")
        expected = post_predict(
            url, ["Apple gains as Microsoft slips", "profit rose today"], targets=["Apple", "Nokia"]
        )
        expect(page.locator("#rows .entity")).to_have_text([row["target"] for row in expected])
        answers = [f"{row['label']} {row['confidence']:.0%}" for row in expected]
        expect(page.locator("#rows .answer")).to_have_text(answers)
        expect(page.locator("#rows .mark.warning")).to_have_count(3)
        page.get_by_role("button", name="Explain line 1, Apple").click()
        expect(page.get_by_role("heading", name=f"Why {expected[0]['label']}?")).to_be_visible()


def test_entities_are_grouped_by_text_without_blank_and_repeated_ones(open_page: Any, url: str) -> None:
    page = open_page(url, accept_downloads=True)
    requests = serve_targets(page, url)
    page.get_by_label("Entities").fill(" Apple,, apple , The  Bank of Japan ,\u200b,Apple")
    classify(page, "Apple gains\n\nThe bank of japan waits")
    assert [request["targets"] for request in requests] == [["Apple", "The Bank of Japan"]]
    expect(page.locator("#rows .text")).to_have_text(["Apple gains", "The bank of japan waits"])
    lines = page.locator("#rows > tbody > tr")
    texts = ["1Apple gains", "Apple", "The Bank of Japan", "3The bank of japan waits", "Apple", "The Bank of Japan"]
    expect(lines).to_have_count(6)
    for i, text in enumerate(texts):
        expect(lines.nth(i).locator(".line, .entity, .text")).to_have_text(
            [text] if text[0] > "9" else [text[0], text[1:]]
        )
    expect(page.locator("#rows .mark.warning")).to_have_text(["⚠ not in the text"] * 2)
    expect(page.locator("#status")).to_have_text("2 texts classified for 2 entities.")
    expect(page.locator("#routing-section .stacks")).to_contain_text("4 predictions")
    records = [json.loads(line) for line in download(page, "Download JSONL").splitlines()]
    assert [(record["text"], record["target"], record.get("target_missing")) for record in records] == [
        ("Apple gains", "Apple", None),
        ("Apple gains", "The Bank of Japan", True),
        ("The bank of japan waits", "Apple", True),
        ("The bank of japan waits", "The Bank of Japan", None),
    ]
    page.get_by_label("Show", exact=True).select_option("=negative")
    expect(page.locator("#rows .entity")).to_have_text(["The Bank of Japan"] * 2)
    expect(page.locator("#rows .text")).to_have_count(2)


def test_requests_with_entities_stay_within_the_limit_of_texts(open_page: Any, url: str) -> None:
    page = open_page(url)  # the limit is 4 texts per request
    requests = serve_targets(page, url)
    page.get_by_label("Entities").fill("A, B, C")
    classify(page, "A falls\nB rises")
    assert [(len(request["texts"]), len(request["targets"])) for request in requests] == [(1, 3), (1, 3)]


def test_examples_of_a_model_whose_tasks_all_have_targets_name_entities(open_page: Any, url: str) -> None:
    page = open_page(url)
    change_model_info(page, url, targets=["news", "forum"])
    examples = page.get_by_role("group", name="Try an example").get_by_role("button")
    expect(examples).to_have_count(1)
    expect(examples).to_contain_text("Entities: Apple, Microsoft")


def test_too_many_entities_are_rejected_before_sending(open_page: Any, url: str) -> None:
    page = open_page(url)
    requests = serve_targets(page, url)
    field = page.get_by_label("Entities")
    field.fill(", ".join(f"company {i}" for i in range(301)))
    page.get_by_label(INPUT).fill("profit rose today")
    click_classify(page)
    expect(page.get_by_role("alert").filter(has_text="Enter at most 300 entities; these are 301.")).to_be_visible()
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    assert not requests
    field.fill("company 1")
    expect(page.locator("#entities-error")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_entities_and_card_fit_a_phone_with_enough_contrast(open_page: Any, url: str, scheme: str) -> None:
    page = open_page(url, viewport=MODERN_PHONE, color_scheme=scheme)
    serve_targets(page, url)
    page.get_by_label("Entities").fill("Apple, Microsoft, " + "averylongcompanyname" * 9)
    classify(page, "Apple gains as Microsoft slips\n" + "profit rose " * 30)
    expect(page.locator("#rows .mark.warning")).not_to_have_count(0)
    expect(page.locator("#predictions")).to_be_in_viewport()
    for view in ("predictions", "card"):
        assert not scrolls_sideways(page), view
        assert not [ratio for ratio in page.evaluate(CONTRAST) if ratio[0] < 4.5], view
        page.goto(f"{url}/card")
