"""Labelling of a run's texts, and training on the soft labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LABELS, Make, entity_tasks, write_csv
from mixtures import save_random_mixture

from experts.errors import Fault
from moe.data.distilled.columns import TEACHER
from moe.data.distilled.soft_labels import SoftLabels, read_soft_rows
from moe.data.distilled.teacher_settings import TeacherSettings
from moe.distill import label
from moe.distill.answers import AnswerStore
from moe.distill.label import label_texts, with_teachers
from moe.distill.request import TaskRequest, Teacher, TeacherInput
from moe.distill.teacher import load_teacher
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.job import batch_sampler
from moe.training.pooled import train_pooled
from moe.training.steps import merge_experts, train_router


class Counting(Teacher):
    """A teacher that gives every text the same distribution and counts the texts."""

    def __init__(self, name: str, distribution: Sequence[float]) -> None:
        super().__init__(name, (name * 16)[:16])
        self.distribution, self.answered = distribution, 0

    def answer(
        self, texts: Sequence[str], request: TaskRequest, targets: Sequence[str | None] | None = None
    ) -> SoftLabels:
        """Answer every text alike."""
        self.answered += len(texts)
        probabilities = np.tile(np.array(self.distribution, np.float32), (len(texts), 1))
        return SoftLabels(probabilities, np.full(len(texts), np.nan, np.float32))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of 40 texts that no labelled row has."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"company {i} raised its forecast for year {i}" for i in range(40)), encoding="utf-8")
    return path


def distilling(make_work: Make, texts: Path, **distill: Any) -> Workspace:
    """A run with the teachers `first` and `second`, and unlabelled news."""
    settings = {"teachers": ["first", "second"], "text": {"news": [str(texts)]}, "calibrate": False}
    return make_work(distill=settings | distill)


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counting]:
    """Two teachers that disagree, under the names that runs load them by."""
    known = {"first": Counting("first", [0.8, 0.1, 0.1]), "second": Counting("second", [0.2, 0.6, 0.2])}
    monkeypatch.setattr(label, "load_teacher", lambda settings: known[settings.model])
    return known


def test_probabilities_of_several_teachers_are_averaged(
    make_work: Make, texts: Path, teachers: dict[str, Counting]
) -> None:
    work = distilling(make_work, texts)
    report = label_texts(work)
    settings = work.run.distill
    assert settings is not None
    rows = read_soft_rows(work.soft_file("news", "news"), settings.of_labels("news"))
    np.testing.assert_allclose(rows.answers.probabilities, np.tile([0.5, 0.35, 0.15], (len(rows.texts), 1)), atol=1e-6)
    news = next(task for task in report.tasks if task.task == "news")
    assert (news.unlabelled, news.labelled) == (40, len(set(work.rows("train", ["news"])["text"])))
    assert [each.name for each in news.teachers] == ["first", "second"]


def test_answers_are_requested_once_even_after_an_interruption(
    make_work: Make, texts: Path, teachers: dict[str, Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = distilling(make_work, texts)
    write = AnswerStore.write
    parts: list[int] = []

    def stop_after_one(self: AnswerStore, part: Sequence[TeacherInput], answers: SoftLabels) -> None:
        if parts:
            raise KeyboardInterrupt
        write(self, part, answers)
        parts.append(len(part))

    monkeypatch.setattr(AnswerStore, "write", stop_after_one)
    monkeypatch.setattr("moe.distill.answers.PART_ROWS", 16)
    with pytest.raises(KeyboardInterrupt):
        label_texts(work)
    monkeypatch.setattr(AnswerStore, "write", write)
    interrupted = teachers["first"].answered
    label_texts(work)
    label_texts(work, overwrite=True)
    texts_of_tasks = [
        {*work.rows("train", [name])["text"], *work.rows("validation", [name])["text"]} for name in ("news", "forum")
    ]
    needed = 40 + sum(map(len, texts_of_tasks))
    assert teachers["first"].answered == needed + interrupted - parts[0]
    assert teachers["second"].answered == needed


def test_damaged_part_of_answers_is_answered_again(make_work: Make, texts: Path, teachers: dict[str, Counting]) -> None:
    work = distilling(make_work, texts)
    label_texts(work)
    before = teachers["first"].answered
    damaged = next((work.out / "distilled" / "answers").glob("first*/*.parquet"))
    damaged.write_bytes(b"damaged")
    label_texts(work, overwrite=True)
    assert teachers["first"].answered > before


def test_texts_near_held_out_rows_and_training_texts_are_left_out(
    make_work: Make, tmp_path: Path, teachers: dict[str, Counting]
) -> None:
    work = make_work()
    held_out, train = work.rows("test", ["news"])["text"][0], work.rows("train", ["news"])["text"][0]
    path = tmp_path / "texts.txt"
    path.write_text(f"{held_out}\n{train}\na text of its own about bonds\n", encoding="utf-8")
    work = distilling(make_work, path)
    label_texts(work)
    settings = work.run.distill
    assert settings is not None
    rows = read_soft_rows(work.soft_file("news", "news"), settings.of_labels("news"))
    assert [text for text, own in zip(rows.texts, rows.labelled, strict=True) if not own] == [
        "a text of its own about bonds"
    ]


def test_labelled_rows_keep_a_share_of_each_batch(make_work: Make, texts: Path, teachers: dict[str, Counting]) -> None:
    work = distilling(make_work, texts)
    label_texts(work)
    rows = work.training_rows(["news"])
    groups = {TEACHER in rows.column_names, len(rows) > len(work.rows("train", ["news"]))}
    assert groups == {True}
    job = type("Job", (), {"rows": rows, "settings": work.run.stages.expert, "seed": 1})()
    drawn = [i for batch in batch_sampler(job) for i in batch]
    labelled = sum(rows[i]["label"] >= 0 for i in drawn)
    assert 0 < labelled < len(drawn)


def test_rows_about_entities_get_the_answers_of_teachers_that_know_entities(
    make_work: Make, tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_work(domains=entity_tasks())
    folder = save_random_mixture(tmp_path / "teacher", load_backbone(base.run.backbone), base, targets=True)
    own, other = load_teacher(TeacherSettings(model=str(folder))), Counting("first", [0.8, 0.1, 0.1])
    monkeypatch.setattr(label, "load_teacher", lambda settings: {"own": own, "first": other}[settings.model])
    settings = {"teachers": ["first", "own"], "text": {"news": [str(texts)]}, "calibrate": False}
    work = make_work(domains=entity_tasks(), distill=settings)
    report = label_texts(work)
    headlines, entities = (next(each for each in report.tasks if each.task == task) for task in ("news", "entities"))
    assert [each.name for each in headlines.teachers] == ["first", own.name]
    assert [each.name for each in entities.teachers] == [own.name]
    assert (headlines.unlabelled, entities.unlabelled, entities.read) == (40, 0, 0)
    rows = work.training_rows(["news"]).filter(lambda row: row["task"] == "entities")
    assert len(rows) > len(set(rows["text"])), "several entities of one text"
    request = TaskRequest("news", "entities", LABELS, scored=False, targeted=True)
    expected = own.answer(rows["text"][:], request, rows["target"][:])
    np.testing.assert_allclose(rows[TEACHER][:], expected.probabilities, atol=1e-6)


def test_texts_with_an_entity_are_labelled_for_tasks_with_a_target_too(
    make_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_work(domains=entity_tasks())
    trained, held_out = (
        base.rows(split, ["news"]).filter(lambda row: row["task"] == "entities")[0] for split in ("train", "test")
    )
    path = tmp_path / "pairs.csv"
    pairs = [("Acme won a contract from Bolt", "Acme"), ("Acme won a contract from Bolt", "Bolt"), ("Rates rose", "")]
    pairs += [(row["text"], row["target"]) for row in (trained, held_out)] + pairs[:1]
    write_csv(path, [{"text": text, "target": target} for text, target in pairs])
    folder = save_random_mixture(tmp_path / "teacher", load_backbone(base.run.backbone), base, targets=True)
    own = load_teacher(TeacherSettings(model=str(folder)))
    monkeypatch.setattr(label, "load_teacher", lambda settings: own)
    for labelled in (True, False):
        settings = {"teachers": ["own"], "text": {"news": [str(path)]}, "calibrate": False, "labelled": labelled}
        work = make_work(f"run-{labelled}", domains=entity_tasks(), distill=settings)
        headlines, entities = label_texts(work).tasks[:2]
        assert (headlines.task, headlines.read, headlines.unlabelled) == ("news", 4, 2)
        assert (entities.task, entities.read, entities.near_held_out, entities.unlabelled) == ("entities", 4, 1, 2)
        rows = work.training_rows(["news"]).filter(lambda row: row["task"] == "entities" and row["label"] < 0)
        assert list(zip(rows["text"], rows["target"], strict=True)) == pairs[:2]
        request = TaskRequest("news", "entities", LABELS, scored=False, targeted=True)
        expected = own.answer(rows["text"][:], request, rows["target"][:])
        np.testing.assert_allclose(rows[TEACHER][:], expected.probabilities, atol=1e-6)
    (expert,) = train_domain(work, "news")
    assert expert.is_dir()


def test_texts_without_an_entity_are_refused_where_every_task_has_a_target(
    make_work: Make, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = entity_tasks()
    del domains["news"]["tasks"]["news"]
    monkeypatch.setattr(label, "load_teacher", lambda settings: pytest.fail("loaded before the texts were checked"))
    work = make_work(domains=domains, distill={"teachers": ["own"], "text": {"news": [str(texts)]}})
    with pytest.raises(Fault, match=r"a column `target` in distill\.text\.news.* no entity"):
        label_texts(work)


def test_rows_about_entities_learn_their_labels_alone_where_no_teacher_knows_entities(
    make_work: Make, texts: Path, teachers: dict[str, Counting], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"teachers": ["first"], "text": {"news": [str(texts)]}, "calibrate": False}
    work = make_work(domains=entity_tasks(), distill=settings)
    report = label_texts(work)
    entities = next(each for each in report.tasks if each.task == "entities")
    assert (entities.labelled, list(entities.teachers)) == (0, [])
    assert "entities: no teacher answers about entities with these labels" in capsys.readouterr().err
    rows = work.training_rows(["news"])
    assert {row["task"] for row in rows if row[TEACHER] is not None} == {"news"}
    (folder,) = train_domain(work, "news")
    assert folder.is_dir()


def test_every_stage_learns_the_teacher(make_work: Make, tmp_path: Path, texts: Path) -> None:
    base = make_work()
    teacher = save_random_mixture(tmp_path / "teacher", load_backbone(base.run.backbone), base)
    work = make_work(
        shared={"r": 2, "alpha": 2},
        distill={"teachers": [str(teacher)], "text": {"news": [str(texts)]}, "weight": 3.0, "weighting": "inner"},
    )
    label_texts(work)
    train_shared(work)
    for name in ("news", "forum"):
        train_domain(work, name)
    merge_experts(work)
    train_router(work)
    train_pooled(work)
    for step in ("shared", "news", "router-warmup", "moe-joint", "pooled"):
        lines = (work.logs(step) / "log.jsonl").read_text(encoding="utf-8").splitlines()
        assert any('"teacher":' in line for line in lines), step


def test_student_comes_nearer_to_the_teacher_on_texts_without_labels(
    make_work: Make, texts: Path, teachers: dict[str, Counting]
) -> None:
    few = {"batch_size": 8, "evals": 1, "steps": 40, "lr": 0.01, "head_lr": 0.05}
    work = distilling(make_work, texts, labelled=False, weight=5.0, temperature=1.0)
    work.run = work.run.model_copy(
        update={"stages": work.run.stages.model_copy(update={"expert": work.run.stages.expert.model_copy(update=few)})}
    )
    label_texts(work)
    train_domain(work, "news")
    losses = [
        float(line.split('"teacher": ')[1].split(",")[0].rstrip("}"))
        for line in (work.logs("news") / "log.jsonl").read_text(encoding="utf-8").splitlines()
        if '"teacher": ' in line
    ]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])


def test_training_without_labels_of_the_teachers_says_what_to_run(make_work: Make, texts: Path) -> None:
    work = distilling(make_work, texts)
    with pytest.raises(Fault, match="moe distill --label-only"):
        train_domain(work, "news")


def test_other_weight_of_the_distillation_is_no_finished_expert(
    make_work: Make, texts: Path, teachers: dict[str, Counting]
) -> None:
    work = distilling(make_work, texts)
    label_texts(work)
    train_domain(work, "news")
    train_domain(work, "news")  # kept
    with pytest.raises(Fault, match=r"distill\.weight"):
        train_domain(distilling(make_work, texts, weight=2.0), "news")


def test_options_replace_the_teachers_and_texts_of_the_config(make_work: Make, texts: Path) -> None:
    run = with_teachers(make_work().run, ["runs/a"], [f"news={texts}"])
    assert run.distill is not None
    assert [each.model for each in run.distill.teachers] == ["runs/a"]
    assert run.distill.text == {"news": (str(texts.absolute()),)}
    with pytest.raises(Fault, match="no domain has this name"):
        with_teachers(make_work().run, ["runs/a"], [f"nws={texts}"])
    with pytest.raises(Fault, match="DOMAIN=FILE"):
        with_teachers(make_work().run, ["runs/a"], ["headlines.txt"])
    with pytest.raises(Fault, match="--teacher"):
        label_texts(make_work())


def test_nothing_changes_without_distillation(make_work: Make) -> None:
    work = make_work()
    assert work.training_rows(["news"]).column_names == work.rows("train", ["news"]).column_names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning:ray")  # Ray sets its own old options
def test_actors_of_ray_label_like_one_process(
    make_work: Make, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moe.distill.answers.PART_ROWS", 16)
    work = make_work(domains=entity_tasks())
    teacher = save_random_mixture(tmp_path / "teacher", load_backbone(work.run.backbone), work, targets=True)
    answers: dict[str, list[SoftLabels]] = {"news": [], "entities": []}
    for engine in ("local", "ray"):
        distill = {"teachers": [str(teacher)], "text": {"news": [str(texts)]}, "cache": str(tmp_path / engine)}
        own = make_work(domains=entity_tasks(), distill=distill)
        label_texts(own, overwrite=True, engine=engine, workers=2)
        settings = own.run.distill
        assert settings is not None
        for task, made in answers.items():
            made.append(read_soft_rows(own.soft_file("news", task), settings.of_labels("news")).answers)
        parts = list((tmp_path / engine).rglob("*.parquet"))
        assert len(parts) > 2, "several parts"
    for local, distributed in answers.values():
        np.testing.assert_allclose(local.probabilities, distributed.probabilities, atol=1e-6)
        assert local.answered.sum() == len(local) > 0
