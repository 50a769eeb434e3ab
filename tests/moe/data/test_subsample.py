"""Samples per domain: at most the requested number of each, the same for a seed, in order."""

from datasets import Dataset

from moe.data.sampler import subsample_per_domain


def rows() -> Dataset:
    domains = ["news", "forum", "news", "macro"] * 25
    return Dataset.from_dict({"id": [str(i) for i in range(100)], "domain": domains})


def test_subsample_caps_each_domain_except_those_retained_completely() -> None:
    sample = subsample_per_domain(rows(), 10, 3, ["macro"])
    counts = {name: sample["domain"].count(name) for name in ("news", "forum", "macro")}
    assert counts == {"news": 10, "forum": 10, "macro": 25}
    indices = [int(id_) for id_ in sample["id"]]
    assert indices == sorted(indices)
    assert subsample_per_domain(rows(), 10, 3, ["macro"])["id"] == sample["id"]
    assert subsample_per_domain(rows(), 10, 4, ["macro"])["id"] != sample["id"]


def test_subsample_returns_all_rows_if_there_are_fewer() -> None:
    assert len(subsample_per_domain(rows(), 1000, 3)) == 100
    assert len(subsample_per_domain(rows().select([]), 5, 3)) == 0
