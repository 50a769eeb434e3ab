"""Tests of the page in a browser, files: CSV cells, delimiters, encodings, downloads, many rows."""

import csv
import io
import json
from typing import Any

import httpx
import pytest
from browser import (
    BROWSER,
    browser,
    choose_file,
    classify,
    click_classify,
    download,
    expect,
    folder,
    manager,
    open_page,
    post_predict,
    url,
)

__all__ = ["browser", "folder", "manager", "open_page", "url"]
pytestmark = BROWSER
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

DROP_FILE = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name, { type: "text/csv" }));
  for (const kind of ["dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector("h1").dispatchEvent(event);
    if (!event.defaultPrevented) throw new Error("the browser would open the file");
  }
}"""


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
