"""`GET /card`: the model card, the README.md in the model's folder, as an HTML page in the style of the web page.

Raw HTML is shown as text, an image as its description; files of the folder, which the service does not serve, are not
linked.
"""

import re
from functools import lru_cache
from html import escape
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse
from markdown_it import MarkdownIt
from markdown_it.token import Token

from experts.errors import Fault
from moe.checkpoints.file_names import README
from moe.serve.errors import RequestError, error_responses
from moe.serve.model_manager import ModelManager
from moe.serve.schemas import MAX_NAME

CARD_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the card: styles and the icon of this service, no script."""
HTML: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
FRONT_MATTER = re.compile(r"\A---\r?\n.*?^---\s*?$", re.DOTALL | re.MULTILINE)
"""YAML that model hubs read, at the start of a card."""
EXTERNAL_LINK = re.compile("https?://", re.IGNORECASE)
CARD_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name} · model card</title>
<link rel="icon" href="page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="page/palette.css">
<link rel="stylesheet" href="page/page.css">
</head>
<body class="card-page">
<header><p>Model card of {name} · <a href="{back}">Classify texts with it</a></p></header>
<main>
<article class="card prose">
{body}</article>
</main>
</body>
</html>
"""


def add_card_route(routes: APIRouter, manager: ModelManager) -> None:
    """Add the route."""

    @routes.get(
        "/card", response_class=Response, responses=HTML | error_responses(404), summary="Get the model card as a page"
    )
    async def card(model: Annotated[str | None, Query(max_length=MAX_NAME)] = None) -> Response:
        """Return what the model was trained on and where it fails, as its README.md states it."""
        served = manager.find(model).served
        if served.card is None:
            fault = Fault(
                f"a model card, {README}, in the folder of the model {served.info['name']}",
                "none",
                "add the file to the model's folder and reload the model",
            )
            raise RequestError(404, fault)
        back = escape(f"./?{urlencode({'model': model})}" if model else "./")
        page = CARD_PAGE.format(name=escape(str(served.info["name"])), back=back, body=render_card(served.card))
        return HTMLResponse(page, headers={"Content-Security-Policy": CARD_POLICY})


@lru_cache(maxsize=2)
def render_card(markdown: str) -> str:
    """Return a card as HTML that holds no script, no raw HTML and no image; only links to other sites are links."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("image", _image)
    parser.add_render_rule("link_open", _link_open)
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", _table_close)
    return str(parser.render(FRONT_MATTER.sub("", markdown)))


def _image(renderer: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    return escape(tokens[index].content)


def _link_open(renderer: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    """A link to another site; a link to a file becomes an anchor without address, which browsers show as text."""
    address = str(tokens[index].attrs.get("href", ""))
    return f'<a href="{escape(address)}" rel="noreferrer">' if EXTERNAL_LINK.match(address) else "<a>"


def _table_open(renderer: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    """Wide tables scroll inside their box, also by keyboard."""
    return '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>\n'


def _table_close(renderer: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    return "</table></div>\n"
