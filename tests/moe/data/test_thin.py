"""Claims about a sample of rows by domain: as many as wanted of each, alike every time, in order."""

from datasets import Dataset

from moe.data.sampler import subsample_per_domain


def rows() -> Dataset:
    domains = ["news", "forum", "news", "macro"] * 25
    return Dataset.from_dict({"id": [str(i) for i in range(100)], "domain": domains})


def test_at_most_so_many_of_each_domain_but_of_those_that_are_kept_whole() -> None:
    found = subsample_per_domain(rows(), 10, 3, ["macro"])
    assert {name: found["domain"].count(name) for name in ("news", "forum", "macro")} == {
        "news": 10,
        "forum": 10,
        "macro": 25,
    }
    places = [int(one) for one in found["id"]]
    assert places == sorted(places)
    assert subsample_per_domain(rows(), 10, 3, ["macro"])["id"] == found["id"]
    assert subsample_per_domain(rows(), 10, 4, ["macro"])["id"] != found["id"]


def test_fewer_rows_than_wanted_are_all_kept() -> None:
    assert len(subsample_per_domain(rows(), 1000, 3)) == 100
    assert len(subsample_per_domain(rows().select([]), 5, 3)) == 0
