"""Settings that contradict each other: each contradiction is one sentence with its key, and its remedy removes it."""

from typing import Any

import pytest
from conftest import merged_settings

from experts.errors import Fault
from moe.config.messages import ConfigFault
from moe.config.run import RunSettings, find_conflicts, parse_run

LABELS = ["down", "up"]
CLASSIFIER: dict[str, Any] = {"domains": {"news": {"labels": LABELS}, "forum": {"labels": LABELS}}}
TEAM: dict[str, Any] = {
    "language": {},
    "domains": {"macro": {"corpus": ["m.txt"]}, "calls": {"corpus": ["c.txt"], "role": "micro"}},
}


def conflicts_of(base: dict[str, Any], over: dict[str, Any]) -> tuple[str, ...]:
    """Errors of a config; none if it is valid."""
    try:
        parse_run(merged_settings(base, over), "run.yaml")
    except ConfigFault as fault:
        return fault.faults
    return ()


CONFLICTS: list[tuple[dict[str, Any], dict[str, Any], str, dict[str, Any]]] = [
    (CLASSIFIER, {"gate": {"top_k": 3}}, "gate.top_k is 3, but soft gates have 2 groups", {"gate": {"top_k": 2}}),
    (
        CLASSIFIER,
        {"gate": {"kind": "hard", "top_k": 2}},
        "gate.top_k is 2, but hard gates have 1 groups",
        {"gate": {"top_k": 1}},
    ),
    (
        CLASSIFIER,
        {"gate": {"kind": "team", "top_k": 2}, "domains": {"news": {"role": "a"}, "forum": {"role": "a"}}},
        "gate.top_k is 2, but team gates have 1 groups",
        {"domains": {"forum": {"role": "b"}}},
    ),
    (
        CLASSIFIER,
        {"gate": {"kind": "fixed", "fixed": [1, 2, 3]}},
        "gate.fixed has 3 weights for 2 experts",
        {"domains": {"news": {"experts": 2}}},
    ),
    (TEAM, {"gate": {"init": "centroid"}}, "gate.init is centroid, but experts of a", {"gate": {"init": "arrow"}}),
    (CLASSIFIER, {"gate": {"unit": "token"}}, "gate.unit is token, but classifiers", {"gate": {"unit": "text"}}),
    (
        CLASSIFIER,
        {"losses": {"inner": "constant"}, "dao": {"imbalance": "learn"}},
        "dao.imbalance is learn, but losses.inner is constant",
        {"losses": {"classes": "cross_entropy"}},
    ),
    (
        CLASSIFIER,
        {"template": "A Forum post: {text}"},
        "template contains the domain name forum",
        {"template": "A platform's post: {text}"},
    ),
    (
        CLASSIFIER,
        {"domains": {"news": {"labels": []}}},
        "domains.news: task news has no labels",
        {"domains": {"news": {"labels": LABELS}}},
    ),
    (
        CLASSIFIER,
        {"domains": {"news": {"ask": "{text}"}}},
        "domains.news: task news has `ask`, which is for language models",
        {"domains": {"news": {"ask": None}}},
    ),
    (
        CLASSIFIER,
        {"domains": {"forum": {"labels": ["Down", "up"]}}},
        "the same spelling of a label in all tasks",
        {"domains": {"forum": {"labels": LABELS}}},
    ),
    (
        CLASSIFIER,
        {"domains": {"forum": {"tasks": {"news": {"labels": LABELS}}}}},
        "unique task names",
        {"domains": {"forum": {"tasks": {"news": {"labels": LABELS}}}, "news": {"tasks": {"x": {"labels": LABELS}}}}},
    ),
    (
        CLASSIFIER,
        {"domains": {"news": {"experts": 2}, "news-1": {"labels": LABELS}}},
        "two experts would have the name news-1",
        {"domains": {"news": {"experts": 1}}},
    ),
    (
        CLASSIFIER,
        {"dao": {"objective": "validation"}, "stages": {"joint": {"accumulate": 2}}},
        "stages.joint.accumulate is 2, but dao.objective is validation",
        {"losses": {"inner": "constant", "outer": "constant"}},
    ),
    (
        CLASSIFIER,
        {"losses": {"measured": "parameters"}, "stages": {"expert": {"accumulate": 4}}},
        "stages.expert.accumulate is 4, but losses.measured is parameters",
        {"stages": {"expert": {"accumulate": 1}}},
    ),
    (
        CLASSIFIER,
        {"losses": {"outer": "pcgrad"}, "stages": {"joint": {"accumulate": 2}}},
        "stages.joint.accumulate is 2, but losses.outer is pcgrad",
        {"losses": {"outer": "dao"}},
    ),
    (
        CLASSIFIER,
        {"losses": {"outer": "pcgrad"}, "stages": {"shard": True}},
        "stages.shard is true, but losses.outer is pcgrad",
        {"stages": {"shard": False}},
    ),
    (
        CLASSIFIER,
        {"backbone": {"quantization": "nf4"}, "stages": {"shard": True}},
        "stages.shard is true, but backbone.quantization is nf4",
        {"backbone": {"quantization": "none"}},
    ),
    (
        TEAM,
        {"domains": {"macro": {"unlabelled": ["x.txt"]}}},
        "domains.macro.unlabelled is for classifiers: use `corpus`",
        {"domains": {"macro": {"unlabelled": []}}},
    ),
    (
        TEAM,
        {"domains": {"general": {"corpus": ["g.txt"]}}},
        "domains.general: this name is reserved for general text",
        {},
    ),
    (
        TEAM,
        {"domains": {"macro": {"tasks": {"tone": {"labels": LABELS}}}}},
        "domains.macro: task tone has no question template",
        {"domains": {"macro": {"tasks": {"tone": {"ask": "{text} {choices}"}}}}},
    ),
]


@pytest.mark.parametrize(("base", "over", "message", "remedy"), CONFLICTS, ids=[case[2][:50] for case in CONFLICTS])
def test_contradiction_is_one_sentence_and_its_remedy_removes_it(
    base: dict[str, Any], over: dict[str, Any], message: str, remedy: dict[str, Any]
) -> None:
    assert conflicts_of(base, {}) == ()
    (conflict,) = conflicts_of(base, over)
    assert message in conflict
    if remedy:
        assert conflicts_of(merged_settings(base, over), remedy) == ()


def test_contradictions_of_all_parts_are_listed_at_once() -> None:
    over = {"gate": {"top_k": 9, "unit": "token"}, "template": "news: {text}", "losses": {"outer": "pcgrad"}}
    conflicts = conflicts_of(CLASSIFIER, merged_settings(over, {"stages": {"shard": True, "joint": {"accumulate": 2}}}))
    assert len(conflicts) == 5
    assert all(": " in conflict for conflict in conflicts)


@pytest.mark.parametrize("name", ["shared", "pooled", "keys", "values", "News", "a b", "", "a/b", "ä", "x" * 101])
def test_domain_name_that_is_reserved_or_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigFault, match=r"a domain name may have only|is a reserved word: choose another domain name"
    ):
        parse_run({"domains": {name: {"labels": LABELS}}}, "run.yaml")


@pytest.mark.parametrize("template", ["", "text", "{text} and {text}", "{texts}"])
def test_template_without_exactly_one_text_is_refused(template: str) -> None:
    with pytest.raises(ConfigFault, match=r"a template must contain {text} exactly once"):
        parse_run(CLASSIFIER | {"template": template}, "run.yaml")


def test_template_may_contain_a_part_of_a_longer_word() -> None:
    assert conflicts_of(CLASSIFIER, {"template": "newsletter: {text}"}) == ()


def test_config_without_a_domain_is_refused() -> None:
    wrong: tuple[Any, ...] = ({}, None, "news", 7)
    for domains in wrong:
        with pytest.raises(ConfigFault, match="domains"):
            parse_run({"domains": domains}, "run.yaml")


def test_task_and_domain_that_do_not_exist_are_refused_with_the_nearest() -> None:
    tasks = {"tone": {"labels": LABELS}, "impact": {"labels": LABELS}}
    run = parse_run({"domains": {"news": {"tasks": tasks}, "forum": {"labels": LABELS}}}, "run.yaml")
    assert run.task_settings("news") == run.task_settings("news", "tone")
    assert run.task_settings("forum", "forum").labels == ("down", "up")
    with pytest.raises(Fault, match=r"one of the domains news, forum; found 'new'. Did you mean news\?"):
        run.task_settings("new")
    with pytest.raises(Fault, match=r"one of news's tasks tone, impact; found 'tones'. Did you mean tone\?"):
        run.task_settings("news", "tones")


def test_rows_of_a_run_are_labels_of_a_classifier_and_questions_of_a_language_model() -> None:
    run = parse_run(CLASSIFIER, "run.yaml")
    assert list(run.rows_of("news")) == ["news"]
    assert run.questions_of("news") == {}
    questions = {"tasks": {"tone": {"labels": LABELS, "ask": "{text} {choices}"}}}
    team = parse_run(merged_settings(TEAM, {"domains": {"macro": questions}}), "run.yaml")
    assert list(team.rows_of("macro")) == list(team.questions_of("macro")) == ["tone"]
    assert team.rows_of("calls") == {}
    assert [domain.tasks for domain in team.domain_list()] == [{}, {}]


@pytest.mark.parametrize(
    ("setting", "target", "removes"),
    [(None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_rows_across_tasks_are_removed_by_default_if_a_task_has_a_target(
    setting: bool | None, target: bool, removes: bool
) -> None:
    columns = {"target": "entity"} if target else {}
    over = {"data": {"across_tasks": setting}, "domains": {"news": {"columns": columns}}}
    assert parse_run(merged_settings(CLASSIFIER, over), "run.yaml").removes_across_tasks is removes


def test_valid_settings_have_no_conflicts_and_survive_their_own_dump() -> None:
    run = parse_run(merged_settings(CLASSIFIER, {"gate": {"kind": "team", "top_k": 2}}), "run.yaml")
    assert find_conflicts(run) == []
    assert RunSettings.model_validate(run.model_dump(mode="json")) == run
