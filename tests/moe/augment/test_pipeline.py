"""Augmentation: only training rows are sent, unusable variants are dropped and counted, only train gets the rest."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Make, entity_tasks, made_up_rows, write_csv
from model_server import MODEL, ModelServer, Reply, completion, error_reply, reordered, rewrite, serving, text_in

from experts.errors import Fault
from moe.augment.backends import EndpointConfig
from moe.augment.pipeline import NO_RESPONSE, augment, preview
from moe.errors import Interrupted
from moe.runs.workspace import Workspace


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A fake model behind an endpoint."""
    with serving() as model:
        yield model


def run(work: Workspace, server: ModelServer, domain: str = "news", **options: bool) -> dict[str, Any]:
    """Augment one domain and return the report of its only task."""
    (report,) = augment(work, [domain], EndpointConfig(server.url, MODEL), **options).tasks
    return report


def written(work: Workspace, domain: str = "news") -> list[dict[str, Any]]:
    """The augmented rows."""
    path = work.out / "data" / domain / domain / "augmented.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def single_variant(make_work: Make, **settings: Any) -> Workspace:
    """A run that requests one variant per row, unless `settings` say otherwise."""
    return make_work(data={"augment": {"variants": 1, "retries": 2, **settings}})


def test_augment_gives_every_training_row_both_kinds_with_label_and_score(make_work: Make, server: ModelServer) -> None:
    work = make_work()
    report = run(work, server)
    train = {row["id"]: row for row in work.originals("news")["news"].splits["train"]}
    assert report.wanted == {"synonym": round(0.2 * 3 * len(train)), "paraphrase": round(0.8 * 3 * len(train))}
    assert report.kept == report.wanted
    assert not report.dropped
    labels = work.run.task_settings("news").labels
    for row in written(work):
        source = train[row["source_id"]]
        assert (row["label"], row["score"]) == (labels[source["label"]], pytest.approx(source["score"]))
        assert sorted(row["text"].split()) == sorted(source["text"].split())
        assert row["text"] != source["text"]
        assert (row["domain"], row["task"], row["model"]) == ("news", "news", MODEL)
    assert sorted({row["id"] for row in written(work)}) == sorted(f"{id_}+{k}" for id_ in train for k in (1, 2, 3))


def test_augment_never_sends_a_held_out_text(make_work: Make, server: ModelServer) -> None:
    work = make_work()
    augment(work, list(work.run.domains), EndpointConfig(server.url, MODEL))
    tasks = [task for domain in work.run.domains for task in work.originals(domain).values()]
    train = {text for task in tasks for text in task.splits["train"]["text"]}
    assert set(server.texts) == train
    sent = json.dumps(server.requests)
    assert work.held_out.texts
    assert not [text for text in work.held_out.texts if text in sent]


def test_prompts_of_rewritten_texts_name_neither_label_nor_domain(make_work: Make, server: ModelServer) -> None:
    run(single_variant(make_work), server)
    for body in server.requests:
        prompt = " ".join(message["content"] for message in body["messages"]).lower()
        assert not [word for word in ("negative", "neutral", "positive", "news") if word in prompt]


def test_endpoint_without_a_key_gets_a_placeholder(
    make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run(single_variant(make_work), server)
    assert server.keys == {"Bearer none"}


def test_endpoint_key_is_read_from_the_configured_variable(
    make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sesame\n")
    augment(single_variant(make_work), ["news"], EndpointConfig(server.url, MODEL, "MY_KEY"))
    assert server.keys == {"Bearer sesame"}


def test_endpoint_retries_when_the_server_is_busy(make_work: Make, server: ModelServer) -> None:
    refused: set[str] = set()

    def busy_once(body: dict[str, Any], nth: int) -> Reply:
        if (text := text_in(body)) not in refused:
            refused.add(text)
            return error_reply(429 if len(refused) % 2 else 503, "slow down")
        return rewrite(body, 0)

    server.reply = busy_once
    report = run(single_variant(make_work), server)
    assert sum(report.kept.values()) == report.rows
    assert len(server.requests) == 2 * report.rows


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        ("<think>what would be a good one", "empty"),
        ("I'm sorry, but I cannot help with that.", "refusal"),
        ("利润今天再次上升,银行表示满意,情况很好", "different script"),
        ("profit rose 25 percent and sales fell again", "a figure that is not in the source"),
        ("word " * 200, "much longer than its source"),
        ("1. profit rose\n2. sales rose today again", "several lines"),
    ],
)
def test_augment_drops_unusable_responses_and_counts_them_by_reason(
    make_work: Make, server: ModelServer, content: str, reason: str
) -> None:
    work = single_variant(make_work)
    server.reply = lambda body, nth: completion(content)
    report = run(work, server)
    assert report.dropped == {reason: report.rows}
    assert written(work) == []


def test_augment_drops_a_variant_that_equals_its_source(make_work: Make, server: ModelServer) -> None:
    server.reply = lambda body, nth: completion(text_in(body).upper() + " !")
    report = run(single_variant(make_work), server)
    assert report.dropped == {"same as its source": report.rows}


def test_augment_retains_one_of_equal_variants(make_work: Make, server: ModelServer) -> None:
    server.reply = lambda body, nth: completion(reordered(body, 0))
    report = run(make_work(), server)
    assert report.dropped == {"same as another variant": 2 * report.rows}


def test_augment_requests_a_repeated_text_once_and_retains_one_variant(
    make_work: Make, server: ModelServer, tmp_path: Path
) -> None:
    rows = made_up_rows("news")
    copies = [rows[0] | {"id": f"copy{i}"} for i in range(3)]
    work = single_variant(make_work, synonym_share=0)
    write_csv(tmp_path / "data" / "news.csv", rows + copies)
    report = run(work, server)
    assert report.dropped == {"same as another variant": 3}
    assert len(server.texts) == len(set(server.texts)) == report.rows - 3


def test_augment_drops_truncated_responses(make_work: Make, server: ModelServer) -> None:
    server.reply = lambda body, nth: completion(reordered(body, 0), "length")
    report = run(single_variant(make_work), server)
    assert report.dropped == {"truncated": report.rows}


@pytest.mark.parametrize(
    "garbage", [(200, b"<html>welcome</html>"), (200, b"{half"), (200, {"choices": []}), (500, b"x")]
)
def test_augment_tolerates_malformed_responses(make_work: Make, server: ModelServer, garbage: Reply) -> None:
    work = single_variant(make_work, retries=0)
    odd = set(work.originals("news")["news"].splits["train"]["text"][::5])
    server.reply = lambda body, nth: garbage if text_in(body) in odd else rewrite(body, nth)
    report = run(work, server)
    assert report.dropped == {NO_RESPONSE: len(odd)}
    assert len(written(work)) == report.rows - len(odd)


def test_augment_raises_if_the_server_only_fails_and_leaves_no_file(make_work: Make, server: ModelServer) -> None:
    work = single_variant(make_work, retries=0)
    server.reply = lambda body, nth: error_reply(500, "out of memory")
    with pytest.raises(Fault, match=r"failed requests in a row, the last one: .*out of memory"):
        run(work, server)
    assert not (work.out / "data" / "news" / "news" / "augmented.jsonl").exists()


def test_augment_drops_variants_near_a_test_row_of_any_domain(make_work: Make, server: ModelServer) -> None:
    work = single_variant(make_work)
    leaked = work.originals("forum")["forum"].splits["test"]["text"][0]
    source = work.originals("news")["news"].splits["train"]["text"][0]
    server.reply = lambda body, nth: completion(f"{leaked}!") if text_in(body) == source else rewrite(body, nth)
    report = run(work, server)
    assert report.dropped == {"near a held-out text": 1}
    assert not [row for row in written(work) if leaked in row["text"]]


def test_augment_resumes_without_repeating_a_request(
    make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = single_variant(make_work, concurrency=1)

    def stop_after_20(body: dict[str, Any], nth: int) -> Reply:
        return rewrite(body, nth) if len(server.requests) <= 20 else error_reply(401)

    server.reply = stop_after_20
    with pytest.raises(Fault, match="key"):
        run(work, server)
    folder = work.out / "data" / "news" / "news"
    assert not (folder / "augmented.jsonl").exists()
    with (folder / "answers.jsonl").open("a") as log:
        log.write('{"key": "cut off by a cra')
    before, server.reply = list(server.requests[:20]), rewrite
    server.requests.clear()
    report = run(work, server)
    assert len(server.requests) == report.rows - 20
    assert not {text_in(body) for body in before} & set(server.texts)
    assert sum(report.kept.values()) == len(written(work)) == report.rows


def test_augment_saves_responses_on_ctrl_c(
    make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = single_variant(make_work)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("moe.console.Meter.advance", interrupt)
        with pytest.raises(Interrupted):
            run(work, server)
    assert len((work.out / "data" / "news" / "news" / "answers.jsonl").read_text().splitlines()) == 1
    report = run(work, server)
    assert sum(report.kept.values()) == report.rows


def test_augment_refuses_to_overwrite_a_finished_file(make_work: Make, server: ModelServer) -> None:
    work = single_variant(make_work)
    run(work, server)
    with pytest.raises(Fault, match="--overwrite"):
        run(work, server)
    count = len(server.requests)
    assert run(work, server, resume=True).kept
    assert len(server.requests) == count, "no response was missing"
    assert run(work, server, overwrite=True).kept
    assert len(server.requests) == 2 * count


def test_endpoint_that_cannot_be_reached_is_a_fault(make_work: Make) -> None:
    with pytest.raises(Fault, match=r"an endpoint that responds at http://127\.0\.0\.1:9"):
        augment(single_variant(make_work, retries=0), ["news"], EndpointConfig("http://127.0.0.1:9/v1", MODEL))


def test_endpoint_suggests_the_closest_model_name(make_work: Make, server: ModelServer) -> None:
    with pytest.raises(Fault, match="Did you mean --model writer:1b"):
        augment(single_variant(make_work), ["news"], EndpointConfig(server.url, "writer:2b"))


def test_endpoint_names_the_key_variable_if_the_key_is_refused(
    make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    server.reply = lambda body, nth: error_reply(401, "who are you")
    with pytest.raises(Fault, match="MY_KEY is not set"):
        augment(single_variant(make_work), ["news"], EndpointConfig(server.url, MODEL, "MY_KEY"))


def test_preview_shows_three_prompts_and_sends_nothing(make_work: Make, server: ModelServer) -> None:
    work = make_work()
    report = preview(work, ["news", "forum"])
    for task in report.tasks:
        assert task.wanted["paraphrase"] == round(0.8 * 3 * task.rows)
    assert len(report.prompts) == 3
    assert not server.requests
    assert not list(work.out.rglob("a*.jsonl"))


# --- training on augmented rows


def augmented(make_work: Make, **settings: Any) -> Workspace:
    """The same run with `data.augmented: true`."""
    return make_work(data={"augmented": True, "augment": settings})


def test_augmented_rows_are_added_to_train_only(make_work: Make, server: ModelServer) -> None:
    plain = make_work()
    run(plain, server)
    mixed = augmented(make_work).prepared("news")
    before, after = plain.originals("news")["news"].splits, mixed["news"].splits
    assert len(after["train"]) == 4 * len(before["train"])
    assert set(after["train"]["origin"]) == {"original", "synonym", "paraphrase"}
    for side in ("validation", "test"):
        assert after[side].to_list() == before[side].to_list()
        assert set(after[side]["origin"]) == {"original"}
    assert after["train"].to_list()[: len(before["train"])] == before["train"].to_list()
    assert mixed["news"].report.augmented.origins.keys() == {"synonym", "paraphrase"}


def test_augmented_rows_are_not_added_without_the_setting(make_work: Make, server: ModelServer) -> None:
    work = make_work()
    run(work, server)
    assert set(make_work().rows("train", ["news"])["origin"]) == {"original"}


def test_augmented_rows_without_a_file_are_a_fault(make_work: Make) -> None:
    with pytest.raises(Fault, match=r"augmented\.jsonl.*moe data augment"):
        augmented(make_work).prepared("news")


def test_augmented_rows_of_held_out_sources_or_texts_are_left_out(make_work: Make, server: ModelServer) -> None:
    work = single_variant(make_work)
    run(work, server)
    path = work.out / "data" / "news" / "news" / "augmented.jsonl"
    splits = work.originals("news")["news"].splits
    model = written(work)[0]
    moved = model | {"id": "m+1", "source_id": splits["test"]["id"][0], "text": "sales of the bank held again today"}
    copied = model | {"id": "c+1", "text": splits["validation"]["text"][0]}
    with path.open("a") as stream:
        stream.write(json.dumps(moved) + "\n" + json.dumps(copied) + "\n")
    prepared = augmented(make_work).prepared("news")["news"]
    assert prepared.report.augmented.left_out == {"source not in train": 1, "near a held-out text": 1}
    assert not {"m+1", "c+1"} & set(prepared.splits["train"]["id"])


def test_augmented_rows_of_sources_held_out_by_another_seed_are_left_out(make_work: Make, server: ModelServer) -> None:
    split = {"own": False, "ratios": [60, 20, 20]}
    first = make_work(domains={"news": {"split": split | {"seed": 1}}})
    run(first, server)
    second = make_work(domains={"news": {"split": split | {"seed": 2}}}, data={"augmented": True})
    prepared = second.prepared("news")["news"]
    held_out = {id_ for side in ("validation", "test") for id_ in prepared.splits[side]["id"]}
    assert prepared.report.augmented.left_out["source not in train"] > 0
    assert not {id_.split("+")[0] for id_ in prepared.splits["train"]["id"]} & held_out


def test_augmented_rows_are_reread_when_the_file_changes(make_work: Make, server: ModelServer) -> None:
    work = single_variant(make_work)
    run(work, server)
    path = work.out / "data" / "news" / "news" / "augmented.jsonl"
    count = len(augmented(make_work).rows("train", ["news"]))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert len(augmented(make_work).rows("train", ["news"])) == count - 1
    path.write_text("")
    assert set(augmented(make_work).rows("train", ["news"])["origin"]) == {"original"}


def test_augmented_rows_are_cached_for_the_next_step(
    make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(single_variant(make_work), server)
    first = augmented(make_work).rows("train", ["news"]).to_list()
    monkeypatch.setattr("moe.data.augmented.read_augmented_rows", None)
    assert augmented(make_work).rows("train", ["news"]).to_list() == first


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_max_share_bounds_requests_and_training_rows(make_work: Make, server: ModelServer, share: float) -> None:
    work = single_variant(make_work, variants=3, max_share=share)
    report = run(work, server)
    assert len(server.requests) == int(share * report.rows)
    run(single_variant(make_work, variants=3), server, overwrite=True)
    capped = augmented(make_work, max_share=share).prepared("news")["news"]
    assert capped.report.augmented.rows == int(share * report.rows)
    repeated = augmented(make_work, max_share=share, seed=13).prepared("news")["news"]
    assert repeated.splits["train"]["id"] == capped.splits["train"]["id"]
    other = augmented(make_work, max_share=share, seed=14).prepared("news")["news"]
    assert other.splits["train"]["id"] != capped.splits["train"]["id"]


def test_max_train_rows_counts_original_rows(make_work: Make, server: ModelServer) -> None:
    capped = {"domains": {"news": {"max_train_rows": 12}}}
    work = make_work(**capped)
    report = run(work, server)
    assert report.rows == 12
    origins = make_work(**capped, data={"augmented": True}).rows("train", ["news"])["origin"]
    assert [origins.count(origin) for origin in ("original", "synonym")] == [12, 7]
    assert len(origins) == 48


def test_data_hashes_include_augmented_rows(make_work: Make, server: ModelServer) -> None:
    run(single_variant(make_work), server)
    hashes = augmented(make_work).data_hashes(["news"])
    assert hashes.keys() == {"news", "news augmented"}
    assert make_work().data_hashes(["news"]).keys() == {"news"}


def test_augmented_rows_name_the_line_that_cannot_be_read(make_work: Make, server: ModelServer) -> None:
    work = single_variant(make_work)
    run(work, server)
    path = work.out / "data" / "news" / "news" / "augmented.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, json.dumps(json.loads(first) | {"origin": "dream"}), *others]))
    with pytest.raises(Fault, match=r"line 2 of .*origin"):
        augmented(make_work).prepared("news")


def test_augment_keeps_each_target_and_drops_variants_without_it(make_work: Make, server: ModelServer) -> None:
    work = make_work(domains=entity_tasks(), data={"augment": {"variants": 1}})
    reports = {report.task: report for report in augment(work, ["news"], EndpointConfig(server.url, MODEL)).tasks}
    report = reports["entities"]
    assert sum(report.kept.values()) == sum(report.wanted.values()) > 0
    rows = [json.loads(line) for line in Path(report.file).read_text(encoding="utf-8").splitlines()]
    assert all(row["target"] in row["text"] for row in rows)
    augmented = make_work(domains=entity_tasks(), data={"augmented": True, "augment": {"variants": 1}})
    train = augmented.prepared("news")["entities"].splits["train"]
    added = [row for row in train if row["origin"] != "original"]
    assert len(added) == len(rows)
    originals = {(row["text"], row["target"]): row["label"] for row in train if row["origin"] == "original"}
    assert {row["target"] for row in added} == {target for _, target in originals}
    server.reply = lambda body, _: completion(
        " ".join("today" if word in ("bank", "profit") else word for word in text_in(body).split()) + " again and again"
    )
    report = {r.task: r for r in augment(work, ["news"], EndpointConfig(server.url, MODEL), overwrite=True).tasks}
    assert report["entities"].dropped["without its target"] > 0
