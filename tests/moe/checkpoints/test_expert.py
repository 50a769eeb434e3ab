"""Tests of a single expert as a mixture with a constant route."""

from conftest import LABELS, Make, made_up_rows, write_csv

from moe.checkpoints.expert import load_single_expert
from moe.training.expert_steps import train_domain


def test_lone_expert_belongs_to_the_domain_on_its_card_and_to_no_domain_of_a_similar_name(make_work: Make) -> None:
    domains = {name: {"file": f"{name}.csv", "labels": list(LABELS)} for name in ("news", "news-2")}
    work = make_work(domains=domains)
    write_csv(work.run.data.path("news-2.csv"), made_up_rows("forum"))
    (folder,) = train_domain(work, "news-2")
    model, _ = load_single_expert(folder)
    assert [domain.name for domain in model.trained_domains] == ["news-2"]


def test_each_expert_of_a_domain_with_several_belongs_to_that_domain(make_work: Make) -> None:
    work = make_work(domains={"news": {"file": "news.csv", "labels": list(LABELS), "experts": 2}})
    models = [load_single_expert(folder)[0] for folder in train_domain(work, "news")]
    assert [[domain.name for domain in model.trained_domains] for model in models] == [["news"], ["news"]]
