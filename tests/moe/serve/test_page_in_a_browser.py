"""Claims about the page in a real browser: what it shows is what the service says, by hand, by keyboard, on a phone."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from corpora import save_language_model
from mixtures import save_random_lm_mixture
from serving import calibrated, listening, make_service

from moe.serve import engine_explain as reasoning
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
AWKWARD = (
    "\ufeffid;body;domain;date\r\n"
    '1;"profit ""rose"" today; a lot";news;2026-01-05\r\n'
    '2;"moon bags\nfell, again";forum;2026-01-20\r\n'
    "3;   ;forum;2026-02-01\r\n"
    "\r\n"
    "4;=1+1 the bank kept sales;news;2026-02-03\r\n"
    "5;rates 😀 利好;news;2026-03-01;one cell too many\r\n"
    "6;rates 😀 利好;news;2026-03-09"
)
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const one of colours) { canvas.fillStyle = one; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (colour) => colour.map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest(".unseen, option, :disabled, noscript")) continue;
    const below = [];
    for (let one = element; one; one = one.parentElement) below.unshift(getComputedStyle(one).backgroundColor);
    const both = [light(paint([...below, getComputedStyle(element).color])), light(paint(below))].sort((a, b) => b - a);
    found.push([(both[0] + 0.05) / (both[1] + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrated(tmp_path_factory.mktemp("browsed"))


@pytest.fixture(scope="module")
def service(folder: Path) -> ModelManager:
    return make_service(folder, max_texts=4, max_text_chars=400)


@pytest.fixture(scope="module")
def url(service: ModelManager) -> Iterator[str]:
    with listening(service) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as one:
        running = one.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Page]]:
    """Opens a page; whatever it complains of in the end is a failure."""
    contexts, complaints = [], []

    def open_(url: str, quiet: bool = False, **how: Any) -> Page:
        contexts.append(browser.new_context(**how))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: line.type == "error" and not quiet and complaints.append(line.text))
        page.goto(url)
        return page

    yield open_
    for one in contexts:
        one.close()
    assert not complaints


def label(page: Page, text: str) -> None:
    page.get_by_label("Type or paste texts").fill(text)
    page.get_by_role("button", name="Label").click()
    expect(page.locator("#status")).to_contain_text("answered")


def drop(page: Page, name: str, content: bytes) -> None:
    expect(page.locator("#asking")).to_be_visible()
    page.locator("#file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})
    expect(page.locator("#sheet")).to_be_visible()


DROP = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name, { type: "text/csv" }));
  for (const kind of ["dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector("h1").dispatchEvent(event);
    if (!event.defaultPrevented) throw new Error("the browser would open the file");
  }
}"""


def downloaded(page: Page, name: str) -> str:
    with page.expect_download() as one:
        page.get_by_role("button", name=name).click()
    return Path(one.value.path()).read_text(encoding="utf-8")


def asked(url: str, texts: list[str], **fields: Any) -> list[dict[str, Any]]:
    got = httpx.post(f"{url}/v1/predict", json={"texts": texts, **fields}, timeout=60)
    return got.json()["answers"]  # type: ignore[no-any-return]


def sideways(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def test_a_typed_text_is_answered_as_the_service_answers_it(opened: Any, url: str) -> None:
    page = opened(url)
    label(page, "profit rose today\n\n  moon bags fell again  ")
    expected = asked(url, ["profit rose today", "moon bags fell again"])
    rows = page.locator("#rows > tbody > tr")
    expect(rows).to_have_count(2)
    for i, answer in enumerate(expected):
        expect(rows.nth(i).locator(".text")).to_have_text(answer["text"])
        expect(rows.nth(i).locator(".label b")).to_have_text(answer["label"])
        expect(rows.nth(i).locator(".label")).to_contain_text(f"{abs(answer['polarity']):.2f}")
        best = max(answer["experts"], key=answer["experts"].get)
        expect(rows.nth(i).locator(".experts li").first).to_contain_text(best)
        expect(rows.nth(i).locator(".probabilities li")).to_have_count(3)


def test_the_words_that_spoke_are_marked_where_they_stand(opened: Any, url: str) -> None:
    page = opened(url)
    text = "rates 😀😀 profit rose today"
    label(page, text)
    page.get_by_role("button", name="why? line 1").click()
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    told = httpx.post(f"{url}/v1/explain", json={"text": text}, timeout=60).json()
    strong = [
        one
        for one in told["why"]["words"]
        if abs(one["weight"]) >= 0.2 * max(abs(x["weight"]) for x in told["why"]["words"])
    ]
    marks = page.locator(".marked mark")
    expect(marks).to_have_count(len(strong))
    for i, one in enumerate(strong):
        expect(marks.nth(i)).to_have_text(f"{one['word']} ({'for' if one['weight'] > 0 else 'against'})")
    alone = page.get_by_role("table", name="Each expert alone").locator("tbody tr")
    assert sorted(alone.locator("th").all_text_contents()) == ["forum", "news"]
    page.get_by_role("button", name="why? line 1").click()
    expect(page.locator(".reasons")).to_have_count(0)


def test_an_awkward_file_is_counted_answered_and_downloaded_as_the_service_says(opened: Any, url: str) -> None:
    page = opened(url, accept_downloads=True)
    expect(page.locator("#asking")).to_be_visible()
    page.evaluate(DROP, ["awkward.csv", AWKWARD])
    expect(page.locator("#sheet-said")).to_have_text("awkward.csv: 6 rows, 4 columns")
    expect(page.get_by_label("cells are parted by")).to_have_value(";")
    expect(page.get_by_label("column with the texts")).to_have_value("1")
    page.get_by_role("button", name="Label").click()
    expect(page.locator("#status")).to_have_text("4 texts answered. 2 rows could not be read.")
    texts = ['profit "rose" today; a lot', "moon bags\nfell, again", "=1+1 the bank kept sales", "rates 😀 利好"]
    expected = asked(url, texts)
    rows = list(csv.DictReader(io.StringIO(downloaded(page, "Download CSV").removeprefix("\ufeff"))))
    assert [row["line"] for row in rows] == ["2", "3", "5", "7", "8", "9"]
    assert [row["error"] for row in rows if row["error"]] == [
        "missing text",
        "more cells than the 4 columns have names",
    ]
    good = [row for row in rows if not row["error"]]
    assert [row["text"] for row in good] == [texts[0], texts[1], "'=1+1 the bank kept sales", texts[3]]
    assert [row["file.date"] for row in good] == ["2026-01-05", "2026-01-20", "2026-02-03", "2026-03-09"]
    for row, answer in zip(good, expected, strict=True):
        assert (row["label"], row["task"]) == (answer["label"], answer["task"])
        assert float(row["confidence"]) == pytest.approx(answer["confidence"], abs=1e-4)
        assert float(row["experts.news"]) == pytest.approx(answer["experts"]["news"], abs=1e-4)
    lines = [json.loads(line) for line in downloaded(page, "Download JSONL").splitlines()]
    assert [one["text"] for one in lines if "error" not in one] == texts
    assert lines[0]["probabilities"].keys() == expected[0]["probabilities"].keys()
    assert lines[0]["file"] == {"id": "1", "domain": "news", "date": "2026-01-05"}


def test_the_routing_of_a_file_is_its_mean_shares_by_group(opened: Any, url: str) -> None:
    page = opened(url)
    drop(page, "awkward.csv", AWKWARD.encode())
    page.get_by_role("button", name="Label").click()
    expect(page.locator("#status")).to_contain_text("answered")
    expect(page.get_by_label("mean shares by", exact=True)).to_have_value("cdomain")
    for summary in page.get_by_text("Figures as a table").all():
        summary.click()
    table = page.get_by_role("table", name="Mean shares by column domain")
    answers = asked(url, ['profit "rose" today; a lot', "=1+1 the bank kept sales", "rates 😀 利好"])
    share = sum(one["experts"]["news"] for one in answers) / 3
    expect(table.locator("tbody tr", has_text="news").locator("td")).to_contain_text(["3", f"{share:.1%}"])
    page.get_by_label("mean shares by", exact=True).select_option("mdate")
    months = page.get_by_role("table", name="Mean shares by month of date", include_hidden=True).locator("tbody th")
    expect(months).to_have_text(["2026-01", "2026-02", "2026-03"])
    expect(page.get_by_role("img", name="Confidence: half of the texts lie below")).to_be_visible()


def test_low_confidence_is_told_in_words_and_follows_the_slider(opened: Any, url: str) -> None:
    page = opened(url)
    label(page, "profit rose today\nmoon bags fell again")
    slider = page.get_by_label("low confidence is below")
    slider.fill("1")
    expect(page.get_by_text("? low confidence")).to_have_count(2)
    page.get_by_label("show", exact=True).select_option("low")
    expect(page.locator("#rows > tbody > tr")).to_have_count(2)
    slider.fill("0")
    expect(page.get_by_text("? low confidence")).to_have_count(0)
    expect(page.locator("#page-said")).to_have_text("none")


def test_a_wanted_accuracy_leaves_labels_out(opened: Any, url: str) -> None:
    page = opened(url, quiet=True)
    page.get_by_text("How to answer").click()
    page.locator("#domain").select_option("news")
    page.get_by_label("give no label unless right").fill("90")
    label(page, "profit rose today\nmoon bags fell again")
    expected = asked(url, ["profit rose today", "moon bags fell again"], domain="news", abstain=0.9)
    expect(page.locator("#rows .mark.none")).to_have_count(sum(one["abstained"] for one in expected))
    page.get_by_label("give no label unless right").fill("99")
    page.get_by_role("button", name="Label").click()
    expect(page.get_by_role("alert").filter(has_text="at best 0.900")).to_be_visible()


def test_a_text_of_html_does_nothing(opened: Any, url: str) -> None:
    page = opened(url)
    text = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    drop(page, "<b>x</b>.csv", f'"{text}"\n"{text.replace(chr(34), chr(34) * 2)}"'.encode())
    page.get_by_role("button", name="Label").click()
    expect(page.locator("#rows .text")).to_have_text([text])
    page.get_by_role("button", name="why? line 2").click()
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    assert page.locator("main img, main script, #sheet b").count() == 0
    assert page.title() not in ("1", "2")


def test_all_of_it_is_done_by_keyboard_and_focus_is_seen(opened: Any, url: str) -> None:
    page = opened(url)
    expect(page.locator("#asking")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("profit rose today")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_have_text("1 text answered.")
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"))
        seen = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert seen == "solid", names[-1]
        if names[-1] == "why? line 1":
            break
    assert names == ["as-csv", "as-jsonl", "threshold", "shown", "why? line 1"]
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    assert page.evaluate("document.activeElement.ariaExpanded") == "true"


def test_every_field_has_a_name(opened: Any, url: str) -> None:
    page = opened(url)
    expect(page.locator("#asking")).to_be_visible()
    nameless = "[...document.querySelectorAll('input, select, textarea')].filter((one) => !one.labels.length)"
    assert page.evaluate(f"{nameless}.map((one) => one.id)") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_and_a_phone_needs_no_scrolling_sideways(opened: Any, url: str, scheme: str) -> None:
    page = opened(url, viewport=PHONE, color_scheme=scheme)
    drop(page, "long.csv", b"text,domain\n" + b"averyveryverylongwordwithoutanend" * 9 + b",news\nmoon bags,forum\n")
    assert not sideways(page)
    page.get_by_text("How to answer").click()
    page.get_by_role("button", name="Label").click()
    expect(page.locator("#status")).to_contain_text("answered")
    page.get_by_role("button", name="why? line 2").click()
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    for summary in page.get_by_text("Figures as a table").all():
        summary.click()
    assert not sideways(page)
    found = page.evaluate(CONTRAST)
    assert len(found) > 50
    assert not [one for one in found if one[0] < 4.5]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 23)"
    assert dark == (scheme == "dark")


def test_a_key_is_asked_for_and_kept_in_this_tab_alone(opened: Any, folder: Path) -> None:
    mine = generate_key()
    with listening(make_service(folder, keys={"me": mine["sha256"]})) as url:
        page = opened(url, quiet=True)
        field = page.get_by_label("This service answers only those who show a key.")
        field.fill("moe_wrong")
        page.get_by_role("button", name="Use this key").click()
        expect(page.get_by_text("That key is not known here.")).to_be_visible()
        field.fill(mine["key"])
        field.press("Enter")
        label(page, "profit rose today")
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
        assert mine["key"] not in page.content()
        page.get_by_role("button", name="Forget the key").click()
        expect(field).to_be_visible()
        assert page.evaluate("sessionStorage.length") == 0


def test_a_busy_service_is_asked_again_when_it_said(opened: Any, url: str) -> None:
    page = opened(url, quiet=True)
    expect(page.locator("#asking")).to_be_visible()
    times: list[float] = []

    def busy(route: Any) -> None:
        times.append(page.evaluate("performance.now()"))
        if len(times) > 2:
            return route.continue_()
        return route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": {"message": "Full."}})

    page.route("**/v1/predict", busy)
    label(page, "profit rose today")
    assert len(times) == 3
    assert times[1] - times[0] >= 1000


def test_a_run_is_stopped_and_goes_on_where_it_was(opened: Any, url: str) -> None:
    page = opened(url)
    texts = [f"rates rose {i} times" for i in range(12)]
    sent: list[str] = []

    def slowly(route: Any) -> None:
        sent.extend(route.request.post_data_json["texts"])
        if len(sent) == 8:
            return None  # never answered
        return route.continue_()

    page.route("**/v1/predict", slowly)
    drop(page, "t.txt", "\n".join(texts).encode())
    page.get_by_role("button", name="Label").click()
    expect(page.locator("#count")).to_have_text("4 of 12")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("4 texts answered. 8 are left: Label goes on with them.")
    page.get_by_role("button", name="Label").click()
    expect(page.locator("#status")).to_have_text("12 texts answered.")
    assert sent == texts[:8] + texts[4:]


def test_twenty_thousand_rows_stay_a_page_of_rows(opened: Any, url: str) -> None:
    page = opened(url)
    answer = asked(url, ["rates"])[0]
    told = httpx.get(f"{url}/v1/model").json()
    told["limits"] |= {"texts": 1000}
    page.route("**/v1/model", lambda route: route.fulfill(json=told))
    page.reload()

    def many(route: Any) -> None:
        texts = route.request.post_data_json["texts"]
        route.fulfill(json={"model": "m", "answers": [answer | {"text": text} for text in texts]})

    page.route("**/v1/predict", many)
    drop(page, "many.csv", b"text,n\n" + b"".join(b"rates,%d\n" % i for i in range(20_000)))
    page.get_by_role("button", name="Label").click()
    expect(page.locator("#status")).to_have_text("20,000 texts answered.", timeout=60_000)
    assert page.locator("#rows > tbody > tr").count() == 25
    page.get_by_role("button", name="Later").click()
    expect(page.locator("#page-said")).to_have_text("26–50 of 20,000")
    assert page.evaluate("document.querySelectorAll('*').length") < 2000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.xlsx", b"PK\x03\x04", "a.xlsx is a workbook or an archive: save it as CSV (UTF-8) first."),
        ("a.csv", b"text\n\x00\x01", "a.csv holds no text: drop a CSV file."),
        ("a.csv", b"", "a.csv has no rows."),
        ("a.csv", b"text\n", "a.csv has no rows."),
        ("a.csv", b'text\nfine\n"never closed\n', "The quote that opens in line 3 is never closed"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_a_sentence(
    opened: Any, url: str, name: str, content: bytes, said: str
) -> None:
    page = opened(url)
    expect(page.locator("#asking")).to_be_visible()
    page.locator("#file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})
    expect(page.locator("#status")).to_contain_text(said)
    label(page, "profit rose today")


def test_other_letters_are_told_and_chosen(opened: Any, url: str) -> None:
    page = opened(url)
    drop(page, "zh.csv", "标题,日期\n利好消息,2026\n".encode("gb18030"))
    expect(page.locator("#status")).to_contain_text("choose another encoding")
    page.get_by_label("letters are written in").select_option("gb18030")
    expect(page.locator("#preview")).to_have_text("利好消息")
    expect(page.locator("#status")).to_have_text("")
    drop(page, "zh.csv", "text\tn\n利好消息\t1\n".encode("utf-16"))
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
def test_cells_are_read_as_spreadsheets_write_them(opened: Any, url: str, text: str, delimiter: str, rows: Any) -> None:
    page = opened(url)
    read = "async ([text, delimiter]) => (await import('/page/csv.js')).parse(text, delimiter)"
    assert [[row["line"], *row["cells"]] for row in page.evaluate(read, [text, delimiter])] == rows


def test_what_is_written_is_read_again_and_runs_nowhere(opened: Any, url: str) -> None:
    page = opened(url)
    cells = ['say "x", y', " spaces ", "line\nbreak", "plain", "=1+1", "＝1+1", "-5", "\tx", "@x", "+1"]
    write = "async (rows) => (await import('/page/csv.js')).written(['c'], rows)"
    pieces = page.evaluate(write, [*({"c": one} for one in cells), {"c": -5}, {}])
    rows = [row[0] for row in csv.reader(io.StringIO("".join(pieces).removeprefix("\ufeff"))) if row]
    assert rows == ["c", *cells[:4], *[f"'{one}" for one in cells[4:]], "-5"]


def test_a_missing_captum_is_shown_in_the_services_words(
    opened: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise reasoning.Fault(
            "captum, which explaining needs", "none installed", "install it: pip install 'finmoe[explain]'"
        )

    monkeypatch.setattr(reasoning, "library", missing)
    page = opened(url, quiet=True)
    label(page, "profit rose today")
    page.get_by_role("button", name="why? line 1").click()
    expect(page.locator(".why-box .trouble")).to_contain_text("pip install 'finmoe[explain]'")


def test_a_service_that_is_gone_is_told(opened: Any, url: str) -> None:
    page = opened(url, quiet=True)
    expect(page.locator("#asking")).to_be_visible()
    page.route("**/v1/predict", lambda route: route.abort())
    page.get_by_label("Type or paste texts").fill("rates")
    page.get_by_role("button", name="Label").click()
    expect(page.get_by_role("alert").filter(has_text="cannot be reached")).to_be_visible()
    expect(page.locator("#status")).to_have_text("0 texts answered. 1 is left: Label goes on with it.")


def test_a_language_model_is_chatted_with(opened: Any, tmp_path: Path) -> None:
    team = save_random_lm_mixture(tmp_path / "team", save_language_model(tmp_path / "llama", "llama"))
    service = make_service(team, max_new_tokens=8)
    engine: Any = service.served.engine
    engine.tokenizer.eos_token = None  # so that it has something to say
    engine.model.loaded_backbone.lm_head.model.generation_config.eos_token_id = None
    with listening(service) as url:
        page = opened(url, quiet=True, viewport=PHONE)
        page.get_by_label("Your turn").fill("moon bags")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".turns .answer .shares li")).to_have_count(3)
        turns = [{"role": "user", "content": "moon bags"}]
        got = httpx.post(f"{url}/v1/chat/completions", json={"messages": turns}, timeout=60).json()
        expect(page.locator(".turns .answer p")).to_have_text(got["choices"][0]["message"]["content"])
        page.get_by_label("Your turn").fill("<b>profit</b>")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#chat-status")).to_contain_text("chat template")  # this one takes one turn
        expect(page.get_by_label("Your turn")).to_be_focused()
        expect(page.get_by_label("Your turn")).to_have_value("<b>profit</b>")
        expect(page.locator(".turns > li")).to_have_count(2)
        assert not sideways(page)
        page.get_by_role("button", name="Begin anew").click()
        expect(page.locator(".turns > li")).to_have_count(0)
