"""Tests of the page in a real browser: predictions, examples, entities, card, files, keyboard, phone, keys, chat."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from corpora import save_language_model
from mixtures import save_random_lm_mixture
from serving import build_manager, serve_in_thread, write_calibrated_mixture, write_mixture

from moe.serve import engine_explain
from moe.serve.auth import generate_key
from moe.serve.model_manager import ModelManager

CHROMIUM = Path("/usr/bin/chromium")
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium"),
]
expect, Page = api.expect, Any
expect.set_options(timeout=30_000)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PHONE = {"width": 360, "height": 740}
MODERN_PHONE = {"width": 390, "height": 844}
INPUT = "Type or paste one or more texts"
DIFFICULT_CSV = (
    "\ufeffid;body;domain;date\r\n"
    '1;"profit ""rose"" today; a lot";news;2026-01-05\r\n'
    '2;"moon bags\nfell, again";forum;2026-01-20\r\n'
    "3;   ;forum;2026-02-01\r\n"
    "\r\n"
    "4;=1+1 the bank kept sales;news;2026-02-03\r\n"
    "5;rates 😀 利好;news;2026-03-01;one cell too many\r\n"
    "6;rates 😀 利好;news;2026-03-09"
)
VISIBLE_FOCUS = """() => {
  const focused = document.activeElement;
  return getComputedStyle(focused.id === "file" ? focused.nextElementSibling : focused).outlineStyle;
}"""
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
    return write_calibrated_mixture(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def manager(folder: Path) -> ModelManager:
    return build_manager(folder, max_texts=4, max_text_chars=400)


@pytest.fixture(scope="module")
def url(manager: ModelManager) -> Iterator[str]:
    with serve_in_thread(manager) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
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
    page.get_by_role("button", name="Classify", exact=True).click()


def classify(page: Page, text: str) -> None:
    page.get_by_label(INPUT).fill(text)
    click_classify(page)
    expect(page.locator("#status")).to_contain_text("classified")


def choose_file(page: Page, name: str, content: bytes) -> None:
    expect(page.locator("#input")).to_be_visible()
    page.locator("#file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})
    expect(page.locator("#file-options")).to_be_visible()


DROP_FILE = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name, { type: "text/csv" }));
  for (const kind of ["dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector("h1").dispatchEvent(event);
    if (!event.defaultPrevented) throw new Error("the browser would open the file");
  }
}"""


def download(page: Page, button: str) -> str:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_text(encoding="utf-8")


def post_predict(url: str, texts: list[str], **fields: Any) -> list[dict[str, Any]]:
    response = httpx.post(f"{url}/v1/predict", json={"texts": texts, **fields}, timeout=60)
    return response.json()["answers"]  # type: ignore[no-any-return]


def change_model_info(page: Page, url: str, **fields: Any) -> None:
    """Open the page again with other fields of `GET /v1/model`."""
    info = httpx.get(f"{url}/v1/model").json() | fields
    page.route("**/v1/model", lambda route: route.fulfill(json=info))
    page.reload()
    expect(page.locator("#input")).to_be_visible()


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


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


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
    expect(page.get_by_text("Routing weights are the experts' shares")).to_be_visible()


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


def test_difficult_csv_file_is_parsed_classified_and_downloaded(open_page: Any, url: str) -> None:
    page = open_page(url, accept_downloads=True)
    expect(page.locator("#input")).to_be_visible()
    page.evaluate(DROP_FILE, ["difficult.csv", DIFFICULT_CSV])
    expect(page.locator("#file-summary")).to_have_text("difficult.csv: 6 rows, 4 columns")
    expect(page.get_by_label("Delimiter")).to_have_value(";")
    expect(page.get_by_label("Text column")).to_have_value("1")
    click_classify(page)
    expect(page.locator("#status")).to_have_text("4 texts classified. 2 rows could not be classified.")
    texts = ['profit "rose" today; a lot', "moon bags\nfell, again", "=1+1 the bank kept sales", "rates 😀 利好"]
    expected = post_predict(url, texts)
    rows = list(csv.DictReader(io.StringIO(download(page, "Download CSV").removeprefix("\ufeff"))))
    assert [row["line"] for row in rows] == ["2", "3", "5", "7", "8", "9"]
    assert [row["error"] for row in rows if row["error"]] == ["missing text", "more cells than the 4 columns"]
    good = [row for row in rows if not row["error"]]
    assert [row["text"] for row in good] == [texts[0], texts[1], "'=1+1 the bank kept sales", texts[3]]
    assert [row["file.date"] for row in good] == ["2026-01-05", "2026-01-20", "2026-02-03", "2026-03-09"]
    for row, prediction in zip(good, expected, strict=True):
        assert (row["label"], row["task"]) == (prediction["label"], prediction["task"])
        assert float(row["confidence"]) == pytest.approx(prediction["confidence"], abs=1e-4)
        assert float(row["experts.news"]) == pytest.approx(prediction["experts"]["news"], abs=1e-4)
    records = [json.loads(line) for line in download(page, "Download JSONL").splitlines()]
    assert [record["text"] for record in records if "error" not in record] == texts
    assert records[0]["probabilities"].keys() == expected[0]["probabilities"].keys()
    assert records[0]["file"] == {"id": "1", "domain": "news", "date": "2026-01-05"}


def test_routing_section_shows_mean_weights_by_group(open_page: Any, url: str) -> None:
    page = open_page(url)
    choose_file(page, "difficult.csv", DIFFICULT_CSV.encode())
    click_classify(page)
    expect(page.locator("#status")).to_contain_text("classified")
    expect(page.get_by_label("Group texts by", exact=True)).to_have_value("cdomain")
    for summary in page.get_by_text("Show as table").all():
        summary.click()
    table = page.get_by_role("table", name="Mean routing weights by column domain")
    predictions = post_predict(url, ['profit "rose" today; a lot', "=1+1 the bank kept sales", "rates 😀 利好"])
    weight = sum(prediction["experts"]["news"] for prediction in predictions) / 3
    expect(table.locator("tbody tr", has_text="news").locator("td")).to_contain_text(["3", f"{weight:.1%}"])
    page.get_by_label("Group texts by", exact=True).select_option("mdate")
    months = page.get_by_role("table", name="Mean routing weights by month of date", include_hidden=True)
    expect(months.locator("tbody th")).to_have_text(["2026-01", "2026-02", "2026-03"])
    expect(page.get_by_role("img", name="Confidence: median")).to_be_visible()


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


def test_html_in_a_text_is_shown_as_text(open_page: Any, url: str) -> None:
    page = open_page(url)
    text = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    choose_file(page, "<b>x</b>.csv", f'"{text}"\n"{text.replace(chr(34), chr(34) * 2)}"'.encode())
    click_classify(page)
    expect(page.locator("#rows .text")).to_have_text([text])
    page.get_by_role("button", name="Explain line 2").click()
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    assert page.locator("main img, main script, #file-options b").count() == 0
    assert page.title() not in ("1", "2")


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


def test_stopped_run_continues_where_it_stopped(open_page: Any, url: str) -> None:
    page = open_page(url)
    texts = [f"rates rose {i} times" for i in range(12)]
    sent: list[str] = []

    def stall(route: Any) -> None:
        sent.extend(route.request.post_data_json["texts"])
        if len(sent) == 8:
            return None  # never gets a response
        return route.continue_()

    page.route("**/v1/predict", stall)
    choose_file(page, "t.txt", "\n".join(texts).encode())
    click_classify(page)
    expect(page.locator("#count")).to_have_text("4 of 12")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("4 texts classified. 8 texts remain: choose Classify to continue.")
    click_classify(page)
    expect(page.locator("#status")).to_have_text("12 texts classified.")
    assert sent == texts[:8] + texts[4:]


def test_table_of_twenty_thousand_rows_has_pages(open_page: Any, url: str) -> None:
    page = open_page(url)
    prediction = post_predict(url, ["rates"])[0]
    info = httpx.get(f"{url}/v1/model").json()
    info["limits"] |= {"texts": 1000}
    page.route("**/v1/model", lambda route: route.fulfill(json=info))
    page.reload()

    def respond(route: Any) -> None:
        texts = route.request.post_data_json["texts"]
        route.fulfill(json={"model": "m", "answers": [prediction | {"text": text} for text in texts]})

    page.route("**/v1/predict", respond)
    choose_file(page, "many.csv", b"text,n\n" + b"".join(b"rates,%d\n" % i for i in range(20_000)))
    click_classify(page)
    expect(page.locator("#status")).to_have_text("20,000 texts classified.", timeout=60_000)
    assert page.locator("#rows > tbody > tr").count() == 25
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#page-range")).to_have_text("26–50 of 20,000")
    assert page.evaluate("document.querySelectorAll('*').length") < 2000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"PK\x03\x04", "a.xlsx is a workbook or an archive: save it as CSV (UTF-8) first."),
        ("a.csv", b"text\n\x00\x01", "a.csv is not a text file: choose a CSV file."),
        ("a.csv", b"", "a.csv has no rows."),
        ("a.csv", b"text\n", "a.csv has no rows."),
        ("a.csv", b'text\nfine\n"never closed\n', "The quote that opens in line 3 is never closed"),
    ],
)
def test_unreadable_file_is_reported_and_typing_still_works(
    open_page: Any, url: str, name: str, content: bytes, message: str
) -> None:
    page = open_page(url)
    expect(page.locator("#input")).to_be_visible()
    page.locator("#file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})
    expect(page.locator("#status")).to_contain_text(message)
    classify(page, "profit rose today")


def test_file_in_another_encoding_is_reported_and_can_be_reread(open_page: Any, url: str) -> None:
    page = open_page(url)
    choose_file(page, "zh.csv", "标题,日期\n利好消息,2026\n".encode("gb18030"))
    expect(page.locator("#status")).to_contain_text("choose another encoding")
    page.get_by_label("Encoding").select_option("gb18030")
    expect(page.locator("#preview")).to_have_text("利好消息")
    expect(page.locator("#status")).to_have_text("")
    choose_file(page, "zh.csv", "text\tn\n利好消息\t1\n".encode("utf-16"))
    expect(page.locator("#preview")).to_have_text("利好消息")


@pytest.mark.parametrize(
    ("text", "delimiter", "rows"),
    [
        ("a,b\n1,2", ",", [[1, "a", "b"], [2, "1", "2"]]),
        ('"a\r\nb",""\r\n\r\nc,', ",", [[1, "a\r\nb", ""], [4, "c", ""]]),
        ('"say ""x""" y,z\r', ",", [[1, 'say "x" y', "z"]]),
        ('a"b;c', ";", [[1, 'a"b', "c"]]),
        ('""', ",", []),
    ],
)
def test_csv_cells_are_parsed_as_spreadsheets_write_them(
    open_page: Any, url: str, text: str, delimiter: str, rows: Any
) -> None:
    page = open_page(url)
    parse = "async ([text, delimiter]) => (await import('/page/csv.js')).parse(text, delimiter)"
    assert [[row["line"], *row["cells"]] for row in page.evaluate(parse, [text, delimiter])] == rows


def test_csv_cells_round_trip_with_formulas_escaped(open_page: Any, url: str) -> None:
    page = open_page(url)
    cells = ['say "x", y', " spaces ", "line\nbreak", "plain", "=1+1", "＝1+1", "-5", "\tx", "@x", "+1"]
    write = "async (rows) => (await import('/page/csv.js')).toCsv(['c'], rows)"
    pieces = page.evaluate(write, [*({"c": cell} for cell in cells), {"c": -5}, {}])
    rows = [row[0] for row in csv.reader(io.StringIO("".join(pieces).removeprefix("\ufeff"))) if row]
    assert rows == ["c", *cells[:4], *[f"'{cell}" for cell in cells[4:]], "-5"]


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
