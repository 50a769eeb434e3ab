"""Tests of `moe.config.overrides`: one setting is replaced, nested settings become overrides and back."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.errors import Fault
from experts.yaml_io import Position, parse_yaml
from moe.config.overrides import apply_override, domain_mapping, override_position, override_strings


def applied(raw: dict[str, Any], *overrides: str) -> dict[str, Any]:
    for override in overrides:
        apply_override(raw, override)
    return raw


def test_override_replaces_one_value_and_leaves_its_neighbours() -> None:
    raw = {"lora": {"r": 4, "alpha": 8}, "seed": 7}
    assert applied(raw, "lora.r=16") == {"lora": {"r": 16, "alpha": 8}, "seed": 7}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("a.b=", None),
        ("a.b=text", "text"),
        ("a.b=x=y", "x=y"),
        ("a.b='5'", "5"),
        ("a.b=[1, two]", [1, "two"]),
        ("a.b={c: 1}", {"c": 1}),
        ("a.b=1e-4", 1e-4),
        ("a.b=off", False),
        ("a.b=利好", "利好"),
    ],
)
def test_value_is_yaml_and_missing_sections_are_created(override: str, value: Any) -> None:
    assert applied({}, override) == {"a": {"b": value}}


def test_section_replaces_a_value_that_is_no_mapping() -> None:
    assert applied({"shared": None, "gate": "soft"}, "shared.r=4", "gate.kind=hard") == {
        "shared": {"r": 4},
        "gate": {"kind": "hard"},
    }


def test_later_override_wins() -> None:
    assert applied({}, "seed=1", "seed=2") == {"seed": 2}
    assert applied({}, "lora.r=1", "lora={alpha: 2}") == {"lora": {"alpha": 2}}
    assert applied({}, "lora={alpha: 2}", "lora.r=1") == {"lora": {"alpha": 2, "r": 1}}


def test_list_of_domains_becomes_a_mapping_if_one_is_overridden() -> None:
    raw = applied({"domains": ["news", "forum"]}, "domains.news.file=mine.csv")
    assert raw == {"domains": {"news": {"file": "mine.csv"}, "forum": None}}
    assert applied({"domains": ["news"]}, "seed=1")["domains"] == ["news"]
    assert applied({"other": {"domains": ["news"]}}, "other.domains.news=1") == {"other": {"domains": {"news": 1}}}


@pytest.mark.parametrize("domains", [None, "news", 7])
def test_domains_of_another_type_are_an_empty_mapping(domains: Any) -> None:
    assert domain_mapping(domains) == {}


def test_names_of_domains_that_are_no_names_stay_for_validation() -> None:
    assert domain_mapping(["news", True, None, ["a"]]) == {"news": None, True: None, None: None, "['a']": None}


@pytest.mark.parametrize("override", ["seed", "", "=", "=3"])
def test_override_without_key_and_value_is_refused_with_an_example(override: str) -> None:
    with pytest.raises(Fault, match=r"Write for example --set stages.joint.lr=1e-4"):
        apply_override({}, override)


@pytest.mark.parametrize("value", ["[1, 2", "{a", "a: b: c", "*anchor", "010", "!!python/object:os.system x"])
def test_value_that_is_no_unambiguous_yaml_is_refused(value: str) -> None:
    raw = {"seed": 7}
    with pytest.raises(Fault, match=r"a YAML value in --set seed=.*Quote the value if it is text"):
        apply_override(raw, f"seed={value}")
    assert raw == {"seed": 7}


def test_long_override_is_cut_where_it_is_named() -> None:
    assert override_position("a=" + "x" * 500) == "--set a=" + "x" * 78


def test_positions_of_a_replaced_section_are_those_of_the_override() -> None:
    document = parse_yaml("lora: {r: 4, alpha: 8}\nseed: 7\n")
    apply_override(document.value, "lora={r: 16}", document.positions)
    assert ("lora", "alpha") not in document.positions
    assert document.positions["lora", "r"] == Position("--set lora={r: 16}", "16")
    assert document.positions["seed",].text == "7"


NAMES = st.sampled_from(["a", "b", "lr", "r"])
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab .:-#利'\"\n0", max_size=6)
    | st.lists(st.integers(0, 9), max_size=3)
)


@given(
    st.dictionaries(NAMES, st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, min_size=1), max_leaves=6))
)
@settings(max_examples=80, deadline=None)
def test_nested_settings_survive_as_overrides(nested: dict[str, Any]) -> None:
    assert applied({}, *override_strings(nested)) == nested


def test_tuples_are_lists_and_empty_mappings_stay() -> None:
    assert list(override_strings({"a": (1, 2), "b": {}, "c": {"d": {"e": True}}})) == ["a=[1, 2]", "b={}", "c.d.e=true"]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", Path("x"), [object()]])
def test_value_that_is_no_setting_is_refused_by_its_key(value: Any) -> None:
    with pytest.raises(Fault, match=r"a setting's value as text, a number.*found lr=.*Convert it"):
        list(override_strings({"lora": {"lr": value}}))
