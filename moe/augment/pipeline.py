"""`moe augment`: training rows written anew, or new questions like them, by a language model; sifted, written by task.

The question is `moe.augment.prompts`', the answer's worth `moe.augment.filters`'s; training on the file is
`moe.data.augmented`'s.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from experts.atomic_io import refuse_existing
from experts.errors import Fault
from moe.augment.backends import EndpointClient, EndpointConfig, LocalModel
from moe.augment.client import ChatModel, complete_all
from moe.augment.filters import clean_response, rejection_reason, strip_thinking
from moe.augment.prompts import Message, build_messages
from moe.augment.response_log import RESPONSE_LOG, LoggedResponse, open_log, read_log
from moe.console import bar, info
from moe.data.augmented_rows import AUGMENTED, AugmentedRow, VariantRequest, plan_variants, text_hash
from moe.data.dedup import NearDuplicateIndex, jaccard, shingles
from moe.data.schema import Origin
from moe.data.writers import open_writer
from moe.errors import Interrupted
from moe.qa.answer_parsing import parse_choice
from moe.runs.workspace import Workspace

SHOWN_PROMPTS = 3
NO_ANSWER = "no answer"
WRONG_ANSWER = "its answer is not the wanted one"
FilteredVariant = tuple[VariantRequest, str, str | None]


@dataclass(frozen=True)
class AugmentJob:
    """One task's training rows, the variants wanted of them, and where answers and variants go."""

    domain: str
    task: str
    labels: tuple[str, ...]
    rows: Dataset
    texts: list[str]
    wanted: list[VariantRequest]
    folder: Path
    prompts: list[str | None]

    @property
    def new(self) -> bool:
        """Whether new questions are wanted, and no row's own text in other words."""
        return bool(self.wanted) and self.wanted[0].origin == "synthetic"

    @property
    def file(self) -> Path:
        """The augmented rows."""
        return self.folder / AUGMENTED

    def key(self, one: VariantRequest, model: str) -> str:
        """By which an answer is found again: it changes with the source's text, the kind, the model."""
        return f"{text_hash(self.texts[one.row])}/{one.origin}/{one.number}/{model}"

    def counts(self) -> dict[str, Any]:
        """What is wanted, in JSON values."""
        kinds = Counter(one.origin for one in self.wanted)
        named: tuple[Origin, ...] = ("synthetic",) if self.new else ("synonym", "paraphrase")
        wanted = {kind: kinds[kind] for kind in named}
        return {"domain": self.domain, "task": self.task, "rows": len(self.rows), "wanted": wanted}

    def question(self, one: VariantRequest) -> list[Message]:
        """What is asked for one variant."""
        label = self.rows[one.row]["label"]
        return build_messages(self.texts[one.row], one.origin, self.labels[label] if label >= 0 else "", self.labels)

    def check(self, one: VariantRequest, text: str) -> list[Message]:
        """The task's own question about a new text, whose answer has to be the wanted one."""
        prompt = str(self.prompts[one.row]).replace(self.texts[one.row], text)
        return [{"role": "user", "content": prompt}]


def build_jobs(work: Workspace, domains: Sequence[str]) -> list[AugmentJob]:
    """What there is to do for some domains; only training rows are in it.

    Raises:
        Fault: when a domain is unknown or its data bad.
    """
    found = []
    for domain in domains:
        work.run.task_settings(domain)
        for task, prepared in work.unaugmented(domain).items():
            rows, labels = prepared.splits["train"], work.run.tasks_of(domain)[task].labels
            texts, prompts, new = list(rows["text"]), list(rows["prompt"]), work.run.language is not None
            scored = [score is not None and not new for score in rows["score"]]
            known = [
                -1 if new and not _framed(text, prompt) else label
                for text, prompt, label in zip(texts, prompts, rows["label"], strict=True)
            ]
            wanted = plan_variants(known, scored, work.run.data.augment, new)
            if new and not wanted:
                info(f"{task}: no answers to choose from, or no text apart from its question; none asked for")
            found.append(AugmentJob(domain, task, labels, rows, texts, wanted, prepared.folder, prompts))
    return found


def _framed(text: str, prompt: str | None) -> bool:
    """Whether a text stands inside its question, where another can take its place."""
    return prompt is not None and text != prompt and text in prompt


def preview(work: Workspace, domains: Sequence[str]) -> dict[str, Any]:
    """What would be asked: counts by task, and three prompts; nothing is sent."""
    todo = build_jobs(work, domains)
    pairs = [(job, one) for job in todo for one in job.wanted]
    shown = [pairs[i * len(pairs) // SHOWN_PROMPTS] for i in range(min(SHOWN_PROMPTS, len(pairs)))]
    return {
        "tasks": [job.counts() for job in todo],
        "prompts": [
            {
                "id": job.rows[one.row]["id"],
                "origin": one.origin,
                "messages": job.question(one),
            }
            for job, one in shown
        ],
    }


def augment(
    work: Workspace,
    domains: Sequence[str],
    service: EndpointConfig,
    overwrite: bool = False,
    resume: bool = False,
    local: bool = False,
) -> dict[str, Any]:
    """Ask for variants of some domains' training rows and write each task's `augmented.jsonl`.

    Answers are kept in `answers.jsonl` as they come; those that are there are not asked for again. The model is then
    asked each new question, without being told its answer: only where it gives the wanted one is the question kept.

    Args:
        local: `service.model` is a folder of a language model, which is run here.

    Returns:
        `tasks`: rows, what was wanted, kept and dropped, and the file.

    Raises:
        Fault: when a finished file would be overwritten, or the endpoint cannot answer.
        Interrupted: on Ctrl-C; what was answered is kept.
    """
    settings = work.run.data.augment
    endpoint = LocalModel(service.model, settings) if local else EndpointClient(service, settings)
    at_once = 1 if local else settings.concurrency
    with closing(endpoint):
        todo = build_jobs(work, domains)
        for job in todo:
            refuse_existing(job.file, overwrite or resume)
        if overwrite:
            for job in todo:
                (job.folder / RESPONSE_LOG).unlink(missing_ok=True)
        tasks = []
        for job in todo:
            _ask(job, endpoint, service.model, at_once)
            if job.new:
                _confirm(job, endpoint, service.model, at_once, work.held_out.index.threshold)
            tasks.append(_write(job, service.model, work.held_out.index))
    info("to train on them: --set data.augmented=true")
    return {"model": service.model, "tasks": tasks}


def _write(job: AugmentJob, model: str, held_out: NearDuplicateIndex[int]) -> dict[str, Any]:
    dropped, kept = Counter[str](), Counter[str]()
    with open_writer(job.file) as writer:
        for one, text, fault in _judged(job, model, held_out):
            if fault:
                dropped[fault] += 1
            else:
                kept[one.origin] += 1
                writer.write(_variant(job, one, text, model).model_dump())
    info(f"{job.task}: {kept.total()} of {len(job.wanted)} variants kept → {job.file}")
    return job.counts() | {"kept": dict(kept), "dropped": dict(dropped.most_common()), "file": str(job.file)}


def _ask(job: AugmentJob, endpoint: ChatModel, model: str, at_once: int) -> None:
    """Have all that is wanted and not yet answered asked for, and kept."""
    asked = {job.key(one, model): one for one in job.wanted}  # rows of one text share their answers
    _ask_missing(job, endpoint, f"asking {model}", {key: job.question(one) for key, one in asked.items()}, at_once)


def _confirm(job: AugmentJob, endpoint: ChatModel, model: str, at_once: int, near: float) -> None:
    """Have the task's question asked about every new text that is fit otherwise."""
    alone = _alone(job, read_log(job.folder / RESPONSE_LOG), model, near)
    fit = {_confirmed(job, one, text, model): job.check(one, text) for one, text, fault in alone if not fault}
    _ask_missing(job, endpoint, "checking its answers", fit, at_once)


def _confirmed(job: AugmentJob, one: VariantRequest, text: str, model: str) -> str:
    return f"{job.key(one, model)}/{text_hash(text)}"


def _ask_missing(
    job: AugmentJob, endpoint: ChatModel, title: str, asked: Mapping[str, list[Message]], at_once: int
) -> None:
    path = job.folder / RESPONSE_LOG
    known = read_log(path)
    missing = {key: question for key, question in asked.items() if key not in known}
    if len(missing) < len(asked):
        info(f"{job.task}: {len(asked) - len(missing)} of {len(asked)} answered before, kept")
    failures = 0
    try:
        with open_log(path) as log, bar(f"{job.task}: {title}", len(missing), "text") as meter:
            for key, answer in complete_all(endpoint, missing.items(), at_once):
                if answer.failure:
                    failures += 1
                else:
                    log.add(key, LoggedResponse(strip_thinking(answer.text), answer.truncated))
                meter.advance(note=f"{failures} failed" if failures else None)
    except KeyboardInterrupt as stop:
        raise Interrupted from stop


def _judged(job: AugmentJob, model: str, held_out: NearDuplicateIndex[int]) -> Iterator[FilteredVariant]:
    """Every wanted variant in order, with its text and why it is dropped, if it is."""
    log = read_log(job.folder / RESPONSE_LOG)
    alone = list(_agreed(job, log, model, _alone(job, log, model, held_out.threshold)))
    fit = ((place, text) for place, (_, text, fault) in enumerate(alone) if not fault)
    straddling = {place for place, others in held_out.query(fit) if others}
    before: defaultdict[str, list[frozenset[str]]] = defaultdict(list)
    for place, (one, text, fault) in enumerate(alone):
        fault = "near a held-out text" if place in straddling else fault
        pieces = shingles(text) if not fault else frozenset[str]()
        if not fault and any(jaccard(pieces, other) >= held_out.threshold for other in before[job.texts[one.row]]):
            fault = "same as another variant"
        if not fault:
            before[job.texts[one.row]].append(pieces)
        yield one, text, fault


def _agreed(
    job: AugmentJob, answers: Mapping[str, LoggedResponse], model: str, alone: Iterator[FilteredVariant]
) -> Iterator[FilteredVariant]:
    """The same; of new questions those alone whose answer the model finds again."""
    for one, text, fault in alone:
        if job.new and not fault:
            answer = answers.get(_confirmed(job, one, text, model))
            wanted = job.labels[job.rows[one.row]["label"]]
            fault = None if answer and parse_choice(strip_thinking(answer.text), job.labels) == wanted else WRONG_ANSWER
        yield one, text, fault


def _alone(
    job: AugmentJob, answers: Mapping[str, LoggedResponse], model: str, near: float
) -> Iterator[FilteredVariant]:
    """The same, each held against its own source only."""
    for one in job.wanted:
        source, answer = job.texts[one.row], answers.get(job.key(one, model))
        text = clean_response(answer.text, source) if answer else ""
        if answer is None:
            yield one, text, NO_ANSWER
        else:
            yield one, text, "cut short" if answer.truncated else rejection_reason(text, source, near, job.new)


def _variant(job: AugmentJob, one: VariantRequest, text: str, model: str) -> AugmentedRow:
    source = job.rows[one.row]
    return AugmentedRow(
        id=f"{source['id']}+{one.number}",
        text=text,
        label=job.labels[source["label"]] if source["label"] >= 0 else None,
        score=None if source["score"] is None else round(source["score"], 6),
        lang=source["lang"],
        domain=job.domain,
        task=job.task,
        origin=one.origin,
        source_id=source["id"],
        source_hash=text_hash(source["text"]),
        model=model,
    )


def selected_domains(work: Workspace, domain: str | None, all_domains: bool) -> list[str]:
    """The domains that a user named.

    Raises:
        Fault: when none is named, or both one and all.
    """
    if (domain is not None) == all_domains:
        raise Fault("one of --domain NAME, --all", "none or both", "name one, e.g. --domain news")
    return [domain] if domain is not None else list(work.run.domains)


def endpoint_from_options(
    base_url: str | None, model: str | None, key_env: str, dry_run: bool, local: Path | None = None
) -> EndpointConfig | None:
    """Whom a user wants asked; nobody in a dry run.

    Args:
        local: the model is a folder, run here, and no address is needed.

    Raises:
        Fault: when the address or the model is missing.
    """
    if local and not dry_run:
        return EndpointConfig("", str(local), key_env)
    return None if dry_run else EndpointConfig.named(base_url, model, key_env)
