"""Tests of the model card: safe HTML, access rules, models without a card."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from serving import build_manager, client_of_several, service_client, write_calibrated_mixture
from starlette.testclient import TestClient

from moe.serve.app import build_app
from moe.serve.auth import generate_key
from moe.serve.routes_card import CARD_POLICY, render_card

CARD = """---
license: apache-2.0
tags: [finance]
---

# Ready

| data | licence |
|---|---|
| SEntFiN | MIT |

---

See [the data](https://example.org/a?b=1&c="2"), [the config](config.yaml) and ![a figure](figure.png).
"""
HARMFUL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "![x](https://example.org/pixel.png)",
    '[x](https://example.org/"onmouseover="alert(1))',
    '[x](https://example.org "t\\" onmouseover=alert(1)")',
    "<https://example.org/'><script>alert(1)</script>>",
    "```<script>\n<script>alert(1)</script>\n```",
    '| a |\n|---|\n| <svg onload="alert(1)"> |',
    "![<script>alert(1)</script>](x)",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_calibrated_mixture(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with service_client(folder) as client:
        yield client


def test_card_route_returns_the_readme_of_the_model_as_a_page(client: TestClient) -> None:
    response = client.get("/card")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"] == CARD_POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "<h1>Mixture of domain experts" in response.text
    assert "<title>mixture · model card</title>" in response.text
    assert "script" not in CARD_POLICY


def test_card_links_back_to_the_page_of_its_model(client: TestClient, folder: Path) -> None:
    assert '<a href="./">Classify texts with it</a>' in client.get("/card").text
    with client_of_several({"first": folder, 'a "b" & c': folder}) as several:
        card = several.get("/card", params={"model": 'a "b" & c'}).text
    assert '<a href="./?model=a+%22b%22+%26+c">Classify texts with it</a>' in card


def test_card_has_tables_and_external_links_but_no_front_matter_images_or_links_to_files() -> None:
    page = render_card(CARD)
    assert page.startswith("<h1>Ready</h1>")
    assert "<td>SEntFiN</td>" in page
    assert "<hr />" in page
    assert '<a href="https://example.org/a?b=1&amp;c=%222%22" rel="noreferrer">the data</a>' in page
    assert "<a>the config</a> and a figure." in page
    assert "apache" not in page


@pytest.mark.parametrize("markdown", HARMFUL)
def test_card_shows_harmful_markdown_as_text(markdown: str) -> None:
    page = render_card(markdown)
    inside = [tag.split(">")[0].lower() for tag in page.split("<")[1:]]
    names = {tag.split()[0].strip("/") for tag in inside}
    assert names <= {"p", "a", "pre", "code", "div", "table", "thead", "tbody", "tr", "th", "td"}
    assert not [tag for tag in inside if " on" in tag.replace('"', '" ') or "javascript:" in tag or "data:" in tag]


def test_card_without_closed_front_matter_is_shown_from_its_start() -> None:
    assert render_card("---\nno end").startswith("<hr />")
    assert "text" in render_card("text\n\n---\n\nmore\n\n---\n")
    assert render_card("") == ""


def test_card_route_responds_404_with_a_sentence_if_the_model_has_none(folder: Path) -> None:
    manager = build_manager(folder)
    manager.served = replace(manager.served, card=None)
    with TestClient(build_app(manager), base_url="http://localhost") as client:
        response = client.get("/card")
        assert response.status_code == 404
        assert response.json()["error"]["message"] == (
            "Expected a model card, README.md, in the folder of the model mixture; found none. "
            "Add the file to the model's folder and reload the model."
        )
        assert client.get("/v1/model").json()["card"] is False


def test_card_route_has_the_access_rules_of_the_other_routes(client: TestClient, folder: Path) -> None:
    assert client.get("/card", headers={"host": "evil.example"}).status_code == 403
    assert client.post("/card").status_code == 405
    mine = generate_key()
    with service_client(folder, keys={"me": mine["sha256"]}) as guarded:
        assert guarded.get("/card").status_code == 401
        assert guarded.get("/card", headers={"authorization": f"Bearer {mine['key']}"}).status_code == 200


def test_model_route_states_card_targets_and_calibrated_tasks(client: TestClient) -> None:
    info = client.get("/v1/model").json()
    assert (info["card"], info["targets"], info["calibrated_tasks"]) == (True, [], ["news"])
