"""Tests for the colours of a report: one meaning each."""

from moe.plots.colours import (
    DOMAIN_COLOURS,
    LABEL_COLOURS,
    LEVEL,
    NEUTRAL,
    OTHER_LABEL_COLOURS,
    OTHER_RUN,
    THIS_RUN,
    DomainColours,
    label_colours,
)
from moe.runs.reader import RunDomain


def test_domains_labels_and_runs_share_no_colour() -> None:
    groups = [set(DOMAIN_COLOURS), {*LABEL_COLOURS.values(), *OTHER_LABEL_COLOURS}, {THIS_RUN, OTHER_RUN, LEVEL}]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert len(groups[0]) == 12
    assert NEUTRAL in groups[1]


def test_tasks_and_experts_have_the_colour_of_their_domain() -> None:
    tasks = {"fpb": ("a", "b"), "sentfin": ("a", "b")}
    news = RunDomain("news", tasks, ("news-1", "news-2"))
    colours = DomainColours([RunDomain("macro", {"macro": ()}, ("macro",)), news])
    names = ("news", "fpb", "sentfin", "news-1", "news-2")
    assert {colours.colour(name) for name in names} == {DOMAIN_COLOURS[1]}
    assert colours.line_style("news-1") != colours.line_style("news-2")
    assert colours.colour("another") == DOMAIN_COLOURS[2]
    assert not DomainColours().knows("macro")


def test_domains_with_the_same_colour_differ_by_line_style() -> None:
    colours = DomainColours([RunDomain(f"d{i}", {}, (f"d{i}",)) for i in range(13)])
    assert colours.colour("d0") == colours.colour("d12")
    assert colours.line_style("d0") != colours.line_style("d12")


def test_label_colours_are_fixed_by_sentiment() -> None:
    assert label_colours(["hawkish", "positive"]) == dict.fromkeys(("hawkish", "positive"), LABEL_COLOURS["positive"])
    assert len(set(label_colours(["a", "b", "c", "d"]).values())) == 4
