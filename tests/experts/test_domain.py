"""Tests of `experts.domain`: heads cover the labels of their tasks, tasks are found by domain and target."""

import random

import pytest

from experts.domain import Domain, LabelSpace, head_kind, head_name
from experts.errors import Fault

THREE = ("negative", "neutral", "positive")


def space(**tasks: tuple[str, ...]) -> LabelSpace:
    """Label space of domains with one task each."""
    return LabelSpace.from_domains([Domain(name, {name: labels}) for name, labels in tasks.items()])


@pytest.mark.parametrize(
    ("domain", "names"),
    [
        (Domain("news"), ("news",)),
        (Domain("news", experts=3), ("news-1", "news-2", "news-3")),
        (Domain("news", experts=2, custom_expert_names=("old", "new")), ("old", "new")),
    ],
)
def test_expert_names_are_the_domain_s_or_numbered_or_custom(domain: Domain, names: tuple[str, ...]) -> None:
    assert domain.expert_names == names


def test_group_is_the_role_or_the_domain_itself() -> None:
    assert (Domain("news").group, Domain("news", role="macro").group) == ("news", "macro")


def test_tasks_of_equal_labels_share_a_head_whatever_their_order() -> None:
    labels = space(news=THREE, forum=("positive", "negative", "neutral"))
    assert labels.heads == {"negative-neutral-positive": THREE}, "the first task decides the order of the logits"
    assert labels.head_by_task == dict.fromkeys(("news", "forum"), "negative-neutral-positive")
    assert labels.mask("forum") == (True, True, True)


def test_task_with_a_subset_of_labels_masks_the_others_of_the_shared_head() -> None:
    labels = space(polar=("positive", "negative"), news=THREE)
    assert list(labels.heads) == ["negative-neutral-positive"]
    assert labels.mask("polar") == (True, False, True)
    assert labels.mask("news") == (True, True, True)


def test_tasks_with_overlapping_labels_have_their_own_heads() -> None:
    labels = space(news=("down", "flat", "up"), rates=("down", "flat", "hike"))
    assert len(labels.heads) == 2
    assert labels.head_by_task["news"] != labels.head_by_task["rates"]


@pytest.mark.parametrize("seed", range(25))
def test_every_task_has_a_head_that_covers_it_and_no_head_is_part_of_another(seed: int) -> None:
    source = random.Random(seed)
    tasks = {f"task{i}": tuple(source.sample("abcdef", source.randint(1, 5))) for i in range(source.randint(1, 6))}
    labels = space(**tasks)
    for task, names in tasks.items():
        head = labels.heads[labels.head_by_task[task]]
        assert set(names) <= set(head)
        assert [label for label, used in zip(head, labels.mask(task), strict=True) if used] == [
            label for label in head if label in names
        ]
    heads = [set(head) for head in labels.heads.values()]
    assert not [(a, b) for i, a in enumerate(heads) for j, b in enumerate(heads) if i != j and a <= b]
    assert set(labels.heads) == set(labels.head_by_task.values()), "no head without a task"


def test_tasks_of_a_domain_are_in_the_order_declared() -> None:
    labels = LabelSpace.from_domains(
        [Domain("news", {"tone": THREE, "impact": ("high", "low")}), Domain("forum", {"mood": THREE})]
    )
    assert labels.tasks_of("news") == ("tone", "impact")
    assert labels.tasks_of("forum") == ("mood",)
    assert labels.tasks_of("macro") == ()


def test_default_task_is_the_domain_s_first_with_or_without_a_target() -> None:
    domains = [
        Domain("news", {"tone": THREE, "entities": THREE}, target_tasks=("entities",)),
        Domain("forum", {"mood": THREE}),
    ]
    labels = LabelSpace.from_domains(domains)
    assert labels.default_task("news") == "tone"
    assert labels.default_task("news", target=True) == "entities"
    assert labels.default_task("forum") == "mood"
    assert labels.default_task("forum", target=True) == "entities", "the only task with a target"
    assert labels.default_task(None) == labels.default_task("macro") == "tone"


def test_default_task_is_none_if_no_task_fits() -> None:
    assert space(news=THREE).default_task("news", target=True) is None
    only = LabelSpace.from_domains([Domain("news", {"entities": THREE}, target_tasks=("entities",))])
    assert only.default_task("news") is None


def test_task_name_of_two_domains_is_refused_with_both_label_sets() -> None:
    domains = [Domain("news", {"tone": ("down", "up")}), Domain("forum", {"tone": ("bear", "bull")})]
    with pytest.raises(Fault, match=r"tone in news \(down, up\) and in forum \(bear, bull\). Rename one of the tasks"):
        LabelSpace.from_domains(domains)


def test_label_in_two_spellings_is_refused_with_both_tasks() -> None:
    with pytest.raises(Fault, match="'positive' in news and 'Positive' in forum"):
        space(news=THREE, forum=("Positive", "other"))


def test_tasks_of_another_kind_have_heads_of_their_own() -> None:
    domains = [
        Domain("news", {"tone": THREE, "topics": THREE, "few": THREE[:2]}, kinds={"topics": "multi_label"}),
        Domain("forum", {"mood": THREE[:2]}, kinds={"mood": "multi_label"}),
    ]
    labels = LabelSpace.from_domains(domains)
    assert labels.head_by_task["tone"] == labels.head_by_task["few"] == "-".join(THREE)
    assert labels.head_by_task["topics"] == labels.head_by_task["mood"] == head_name(THREE, "multi_label")
    assert list(labels.head_by_task) == list(labels.tasks)
    kinds = {head: head_kind(head, names) for head, names in labels.heads.items()}
    assert list(kinds.values()) == ["classes", "multi_label"]
    assert (labels.kind("tone"), labels.kind("mood")) == ("classes", "multi_label")
