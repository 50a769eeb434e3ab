"""Tests of the page in a browser, scores alone: no label, no probability, and an explanation of the score."""

from collections.abc import Callable

import pytest
from browser import BROWSER, Page, browser, classify, expect, open_page, url
from conftest import SCORE_ALONE
from exports import save_and_load_mixture
from serving import build_manager

from moe.serve.model_manager import ModelManager

__all__ = ["browser", "open_page", "url"]
pytestmark = BROWSER


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> ModelManager:
    """Manager of a mixture whose domains both have a score alone."""
    alone = SCORE_ALONE | {"news": SCORE_ALONE["forum"]}
    return build_manager(save_and_load_mixture(tmp_path_factory.mktemp("scores"), domains=alone).folder)


def test_page_shows_a_score_without_a_label_and_explains_it(open_page: Callable[..., Page], url: str) -> None:
    page = open_page(url)
    classify(page, "profit rose today\nmoon bags fell")
    expect(page.locator("#rows .polarity").first).to_contain_text("score")
    assert page.locator("#rows .mark").count() == 0  # neither "no label" nor "low confidence"
    expect(page.locator("#calibration-hint")).to_have_text("The model predicts scores, without probabilities.")
    page.get_by_role("button", name="Explain").first.click()
    expect(page.get_by_text("Why this score?")).to_be_visible()
    expect(page.get_by_text("words raise the score")).to_be_visible()
