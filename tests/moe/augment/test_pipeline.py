"""Claims about augmented rows: only training rows are sent, the unfit are dropped and counted, only train gets them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Make, made_up_rows, write_csv
from model_server import MODEL, ModelServer, Reply, completion, rewriting, serving, text_in, trouble, turned

from experts.errors import Fault
from moe.augment.backends import EndpointConfig
from moe.augment.pipeline import NO_ANSWER, augment, preview
from moe.errors import Interrupted
from moe.runs.workspace import Workspace


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model to ask."""
    with serving() as model:
        yield model


def ask(work: Workspace, server: ModelServer, domain: str = "news", **how: bool) -> dict[str, Any]:
    """Augment one domain; give its only task's report."""
    (report,) = augment(work, [domain], EndpointConfig(server.url, MODEL), **how)["tasks"]
    return report


def written(work: Workspace, domain: str = "news") -> list[dict[str, Any]]:
    """The augmented rows."""
    path = work.out / "data" / domain / domain / "augmented.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def few(make_work: Make, **settings: Any) -> Workspace:
    """A run that asks for one variant a row, or as said."""
    return make_work(data={"augment": {"variants": 1, "retries": 2, **settings}})


def test_every_training_row_gets_its_variants_of_both_kinds_with_label_and_score(
    make_work: Make, server: ModelServer
) -> None:
    work = make_work()
    report = ask(work, server)
    train = {row["id"]: row for row in work.originals("news")["news"].splits["train"]}
    assert report["wanted"] == {"synonym": round(0.2 * 3 * len(train)), "paraphrase": round(0.8 * 3 * len(train))}
    assert report["kept"] == report["wanted"]
    assert not report["dropped"]
    labels = work.run.task_settings("news").labels
    for row in written(work):
        source = train[row["source_id"]]
        assert (row["label"], row["score"]) == (labels[source["label"]], pytest.approx(source["score"]))
        assert sorted(row["text"].split()) == sorted(source["text"].split())
        assert row["text"] != source["text"]
        assert (row["domain"], row["task"], row["model"]) == ("news", "news", MODEL)
    assert sorted({row["id"] for row in written(work)}) == sorted(f"{id_}+{k}" for id_ in train for k in (1, 2, 3))


def test_no_held_out_text_is_ever_sent(make_work: Make, server: ModelServer) -> None:
    work = make_work()
    augment(work, list(work.run.domains), EndpointConfig(server.url, MODEL))
    train = {
        text for d in work.run.domains for one in work.originals(d).values() for text in one.splits["train"]["text"]
    }
    assert set(server.texts) == train
    sent = json.dumps(server.asked)
    assert work.held_out.texts
    assert not [text for text in work.held_out.texts if text in sent]


def test_neither_label_nor_domain_is_told_to_the_model(make_work: Make, server: ModelServer) -> None:
    ask(few(make_work), server)
    for body in server.asked:
        told = " ".join(message["content"] for message in body["messages"]).lower()
        assert not [word for word in ("negative", "neutral", "positive", "news") if word in told]


def test_a_local_server_needs_no_key(make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ask(few(make_work), server)
    assert server.keys == {"Bearer none"}


def test_the_key_comes_from_the_variable_that_is_named(
    make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sesame\n")
    augment(few(make_work), ["news"], EndpointConfig(server.url, MODEL, "MY_KEY"))
    assert server.keys == {"Bearer sesame"}


def test_a_busy_server_is_asked_again(make_work: Make, server: ModelServer) -> None:
    seen: set[str] = set()

    def busy_once(body: dict[str, Any], nth: int) -> Reply:
        if (text := text_in(body)) not in seen:
            seen.add(text)
            return trouble(429 if len(seen) % 2 else 503, "slow down")
        return rewriting(body, 0)

    server.reply = busy_once
    report = ask(few(make_work), server)
    assert sum(report["kept"].values()) == report["rows"]
    assert len(server.asked) == 2 * report["rows"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "empty"),
        ("<think>what would be a good one", "empty"),
        ("I'm sorry, but I cannot help with that.", "refusal"),
        ("利润今天再次上升,银行表示满意,情况很好", "other script"),
        ("profit rose 25 percent and sales fell again", "a figure that is not in the source"),
        ("word " * 200, "much longer than its source"),
        ("1. profit rose\n2. sales rose today again", "several lines"),
    ],
)
def test_an_unfit_answer_is_dropped_and_counted_by_its_reason(
    make_work: Make, server: ModelServer, said: str, reason: str
) -> None:
    work = few(make_work)
    server.reply = lambda body, nth: completion(said)
    report = ask(work, server)
    assert report["dropped"] == {reason: report["rows"]}
    assert written(work) == []


def test_the_source_said_again_is_dropped(make_work: Make, server: ModelServer) -> None:
    server.reply = lambda body, nth: completion(text_in(body).upper() + " !")
    report = ask(few(make_work), server)
    assert report["dropped"] == {"same as its source": report["rows"]}


def test_one_variant_twice_is_kept_once(make_work: Make, server: ModelServer) -> None:
    server.reply = lambda body, nth: completion(turned(body, 0))
    report = ask(make_work(), server)
    assert report["dropped"] == {"same as another variant": 2 * report["rows"]}


def test_rows_of_one_text_are_asked_for_once_and_get_one_variant(
    make_work: Make, server: ModelServer, tmp_path: Path
) -> None:
    rows = made_up_rows("news")
    copies = [rows[0] | {"id": f"copy{i}"} for i in range(3)]
    work = few(make_work, synonym_share=0)
    write_csv(tmp_path / "data" / "news.csv", rows + copies)
    report = ask(work, server)
    assert report["dropped"] == {"same as another variant": 3}
    assert len(server.texts) == len(set(server.texts)) == report["rows"] - 3


def test_an_answer_cut_at_its_length_is_dropped(make_work: Make, server: ModelServer) -> None:
    server.reply = lambda body, nth: completion(turned(body, 0), "length")
    report = ask(few(make_work), server)
    assert report["dropped"] == {"cut short": report["rows"]}


@pytest.mark.parametrize(
    "garbage", [(200, b"<html>welcome</html>"), (200, b"{half"), (200, {"choices": []}), (500, b"x")]
)
def test_garbage_now_and_then_stops_nothing(make_work: Make, server: ModelServer, garbage: Reply) -> None:
    work = few(make_work, retries=0)
    odd = set(work.originals("news")["news"].splits["train"]["text"][::5])
    server.reply = lambda body, nth: garbage if text_in(body) in odd else rewriting(body, nth)
    report = ask(work, server)
    assert report["dropped"] == {NO_ANSWER: len(odd)}
    assert len(written(work)) == report["rows"] - len(odd)


def test_a_server_that_only_fails_is_a_fault_and_no_file_is_left(make_work: Make, server: ModelServer) -> None:
    work = few(make_work, retries=0)
    server.reply = lambda body, nth: trouble(500, "out of memory")
    with pytest.raises(Fault, match=r"failures in a row, the last: .*out of memory"):
        ask(work, server)
    assert not (work.out / "data" / "news" / "news" / "augmented.jsonl").exists()


def test_a_variant_near_a_test_row_of_any_domain_is_dropped(make_work: Make, server: ModelServer) -> None:
    work = few(make_work)
    stolen = work.originals("forum")["forum"].splits["test"]["text"][0]
    victim = work.originals("news")["news"].splits["train"]["text"][0]
    server.reply = lambda body, nth: completion(f"{stolen}!") if text_in(body) == victim else rewriting(body, nth)
    report = ask(work, server)
    assert report["dropped"] == {"near a held-out text": 1}
    assert not [row for row in written(work) if stolen in row["text"]]


def test_a_stopped_run_goes_on_and_asks_for_nothing_twice(
    make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = few(make_work, concurrency=1)

    def stopping(body: dict[str, Any], nth: int) -> Reply:
        return rewriting(body, nth) if len(server.asked) <= 20 else trouble(401)

    server.reply = stopping
    with pytest.raises(Fault, match="key"):
        ask(work, server)
    folder = work.out / "data" / "news" / "news"
    assert not (folder / "augmented.jsonl").exists()
    with (folder / "answers.jsonl").open("a") as log:
        log.write('{"key": "cut by a cra')
    before, server.reply = list(server.asked[:20]), rewriting
    server.asked.clear()
    report = ask(work, server)
    assert len(server.asked) == report["rows"] - 20
    assert not {text_in(body) for body in before} & set(server.texts)
    assert sum(report["kept"].values()) == len(written(work)) == report["rows"]


def test_ctrl_c_keeps_what_was_answered(make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    work = few(make_work)

    def struck(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("moe.console.Meter.advance", struck)
        with pytest.raises(Interrupted):
            ask(work, server)
    assert len((work.out / "data" / "news" / "news" / "answers.jsonl").read_text().splitlines()) == 1
    report = ask(work, server)
    assert sum(report["kept"].values()) == report["rows"]


def test_a_finished_file_is_not_overwritten_unasked(make_work: Make, server: ModelServer) -> None:
    work = few(make_work)
    ask(work, server)
    with pytest.raises(Fault, match="--overwrite"):
        ask(work, server)
    asked = len(server.asked)
    assert ask(work, server, resume=True)["kept"]
    assert len(server.asked) == asked, "nothing was missing"
    assert ask(work, server, overwrite=True)["kept"]
    assert len(server.asked) == 2 * asked


def test_an_endpoint_that_is_not_there_is_a_fault(make_work: Make) -> None:
    with pytest.raises(Fault, match=r"an endpoint that answers at http://127\.0\.0\.1:9"):
        augment(few(make_work, retries=0), ["news"], EndpointConfig("http://127.0.0.1:9/v1", MODEL))


def test_an_unknown_model_is_a_fault_with_a_guess(make_work: Make, server: ModelServer) -> None:
    with pytest.raises(Fault, match="Did you mean --model writer:1b"):
        augment(few(make_work), ["news"], EndpointConfig(server.url, "writer:2b"))


def test_a_refused_key_is_a_fault_that_names_the_variable(
    make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    server.reply = lambda body, nth: trouble(401, "who are you")
    with pytest.raises(Fault, match="MY_KEY is not set"):
        augment(few(make_work), ["news"], EndpointConfig(server.url, MODEL, "MY_KEY"))


def test_a_dry_run_shows_three_prompts_and_sends_nothing(make_work: Make, server: ModelServer) -> None:
    work = make_work()
    found = preview(work, ["news", "forum"])
    assert [one["wanted"]["paraphrase"] for one in found["tasks"]] == [
        round(0.8 * 3 * one["rows"]) for one in found["tasks"]
    ]
    assert len(found["prompts"]) == 3
    assert not server.asked
    assert not list(work.out.rglob("a*.jsonl"))


# --- training on them


def augmented(make_work: Make, **over: Any) -> Workspace:
    """The same run, told to train on augmented rows."""
    return make_work(data={"augmented": True, "augment": over})


def test_augmented_rows_train_and_neither_validate_nor_test(make_work: Make, server: ModelServer) -> None:
    plain = make_work()
    ask(plain, server)
    mixed = augmented(make_work).prepared("news")
    before, after = plain.originals("news")["news"].splits, mixed["news"].splits
    assert len(after["train"]) == 4 * len(before["train"])
    assert set(after["train"]["origin"]) == {"original", "synonym", "paraphrase"}
    for side in ("validation", "test"):
        assert after[side].to_list() == before[side].to_list()
        assert set(after[side]["origin"]) == {"original"}
    assert after["train"].to_list()[: len(before["train"])] == before["train"].to_list()
    assert mixed["news"].report["augmented"]["origins"].keys() == {"synonym", "paraphrase"}


def test_without_the_setting_nothing_is_added(make_work: Make, server: ModelServer) -> None:
    work = make_work()
    ask(work, server)
    assert set(make_work().rows("train", ["news"])["origin"]) == {"original"}


def test_the_setting_without_the_file_is_a_fault(make_work: Make) -> None:
    with pytest.raises(Fault, match=r"augmented\.jsonl.*moe augment"):
        augmented(make_work).prepared("news")


def test_a_row_of_the_other_side_cannot_come_in_through_the_file(make_work: Make, server: ModelServer) -> None:
    work = few(make_work)
    ask(work, server)
    path = work.out / "data" / "news" / "news" / "augmented.jsonl"
    splits = work.originals("news")["news"].splits
    model = written(work)[0]
    moved = model | {"id": "m+1", "source_id": splits["test"]["id"][0], "text": "sales of the bank held again today"}
    copied = model | {"id": "c+1", "text": splits["validation"]["text"][0]}
    with path.open("a") as stream:
        stream.write(json.dumps(moved) + "\n" + json.dumps(copied) + "\n")
    found = augmented(make_work).prepared("news")["news"]
    assert found.report["augmented"]["left_out"] == {"of rows that do not train": 1, "near a held-out text": 1}
    assert not {"m+1", "c+1"} & set(found.splits["train"]["id"])


def test_rows_drawn_anew_leave_out_the_variants_of_what_is_now_held_out(make_work: Make, server: ModelServer) -> None:
    split = {"own": False, "ratios": [60, 20, 20]}
    first = make_work(domains={"news": {"split": split | {"seed": 1}}})
    ask(first, server)
    over = {"domains": {"news": {"split": split | {"seed": 2}}}, "data": {"augmented": True}}
    second = make_work(**over)
    found = second.prepared("news")["news"]
    held_out = {id_ for side in ("validation", "test") for id_ in found.splits[side]["id"]}
    assert found.report["augmented"]["left_out"]["of rows that do not train"] > 0
    assert not {id_.split("+")[0] for id_ in found.splits["train"]["id"]} & held_out


def test_a_changed_file_of_augmented_rows_is_read_anew(make_work: Make, server: ModelServer) -> None:
    work = few(make_work)
    ask(work, server)
    path = work.out / "data" / "news" / "news" / "augmented.jsonl"
    count = len(augmented(make_work).rows("train", ["news"]))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert len(augmented(make_work).rows("train", ["news"])) == count - 1
    path.write_text("")
    assert set(augmented(make_work).rows("train", ["news"])["origin"]) == {"original"}


def test_what_was_mixed_is_kept_for_the_next_step(
    make_work: Make, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(few(make_work), server)
    first = augmented(make_work).rows("train", ["news"]).to_list()
    monkeypatch.setattr("moe.data.augmented.read_variants", None)
    assert augmented(make_work).rows("train", ["news"]).to_list() == first


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_max_share_bounds_what_is_asked_and_what_is_trained_on(
    make_work: Make, server: ModelServer, share: float
) -> None:
    work = few(make_work, variants=3, max_share=share)
    report = ask(work, server)
    assert len(server.asked) == int(share * report["rows"])
    ask(few(make_work, variants=3), server, overwrite=True)
    bound = augmented(make_work, max_share=share).prepared("news")["news"]
    assert bound.report["augmented"]["rows"] == int(share * report["rows"])
    again = augmented(make_work, max_share=share, seed=13).prepared("news")["news"]
    assert again.splits["train"]["id"] == bound.splits["train"]["id"]
    other = augmented(make_work, max_share=share, seed=14).prepared("news")["news"]
    assert other.splits["train"]["id"] != bound.splits["train"]["id"]


def test_the_cap_on_training_rows_counts_originals(make_work: Make, server: ModelServer) -> None:
    capped = {"domains": {"news": {"max_train_rows": 12}}}
    work = make_work(**capped)
    report = ask(work, server)
    assert report["rows"] == 12
    origins = make_work(**capped, data={"augmented": True}).rows("train", ["news"])["origin"]
    assert [origins.count(one) for one in ("original", "synonym")] == [12, 7]
    assert len(origins) == 48


def test_the_hash_of_augmented_rows_stands_beside_the_files(make_work: Make, server: ModelServer) -> None:
    ask(few(make_work), server)
    hashes = augmented(make_work).data_hashes(["news"])
    assert hashes.keys() == {"news", "news augmented"}
    assert make_work().data_hashes(["news"]).keys() == {"news"}


def test_a_broken_line_of_augmented_rows_is_told_with_its_number(make_work: Make, server: ModelServer) -> None:
    work = few(make_work)
    ask(work, server)
    path = work.out / "data" / "news" / "news" / "augmented.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, json.dumps(json.loads(first) | {"origin": "dream"}), *others]))
    with pytest.raises(Fault, match=r"line 2 of .*origin"):
        augmented(make_work).prepared("news")
