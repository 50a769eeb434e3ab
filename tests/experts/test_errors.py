"""Tests of `experts.errors`: the sentence of a fault, its remedy for an unknown name, and its pickle."""

import pickle

import pytest

from experts.errors import Fault, check_choice, suggest
from moe.config.messages import ConfigFault
from moe.inference.finite import NonFiniteScores


def test_fault_is_three_sentences_in_one_line() -> None:
    fault = Fault("a number", "'x'", "write a number")
    assert str(fault) == "Expected a number; found 'x'. Write a number."
    assert (fault.expected, fault.found, fault.remedy) == ("a number", "'x'", "write a number")
    assert isinstance(fault, ValueError), "pydantic and argument parsers report it as the value's error"


@pytest.mark.parametrize(
    ("remedy", "end"),
    [("did you mean news?", " Did you mean news?"), ("write it again.", " Write it again."), ("", " .")],
)
def test_remedy_ends_with_one_full_stop_or_its_own_question_mark(remedy: str, end: str) -> None:
    assert str(Fault("a", "b", remedy)) == f"Expected a; found b.{end}"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("forun", "did you mean forum?"),
        ("NEWS", "did you mean news?"),
        ("Forun", "did you mean forum?"),
        ("new", "did you mean news?"),
        ("zebra", "use one of them"),
        ("", "use one of them"),
    ],
)
def test_suggestion_is_the_closest_known_name_if_one_is_close(name: str, remedy: str) -> None:
    assert suggest(name, iter(["news", "forum", "macro"])) == remedy


def test_suggestion_is_spelled_as_the_known_name() -> None:
    assert suggest("bert-base", ["BERT-Base", "GPT"]) == "did you mean BERT-Base?"


def test_suggestion_without_known_names_is_general() -> None:
    assert suggest("news", []) == "use one of them"


def test_fault_of_a_worker_process_arrives_with_its_parts() -> None:
    fault = pickle.loads(pickle.dumps(Fault("a number", "'x'", "write a number")))
    assert str(fault) == "Expected a number; found 'x'. Write a number."
    assert (type(fault), fault.remedy) == (Fault, "write a number")


def test_fault_of_a_subclass_with_other_arguments_survives_a_pickle() -> None:
    fault = ConfigFault("run.yaml", ["seed: expected a number", "lora.rr: unknown key"])
    copy = pickle.loads(pickle.dumps(fault))
    assert type(copy) is ConfigFault
    assert (str(copy), copy.faults) == (str(fault), fault.faults)
    assert issubclass(NonFiniteScores, Fault)


def test_check_choice_returns_the_choice_and_names_all_of_them_otherwise() -> None:
    assert check_choice("soft", ("soft", "hard"), "--routing") == "soft"
    with pytest.raises(Fault, match=r"Expected --by a, b or clear; found 'cleer'\. Did you mean clear\?"):
        check_choice("cleer", ("a", "b", "clear"), "--by")
