"""`moe data augment`: a language model rewrites training rows, or writes new questions like them."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset

from experts.atomic_io import refuse_existing
from experts.errors import Fault
from experts.outputs import check_output_names
from moe.augment.backends import EndpointClient, EndpointConfig, LocalModel
from moe.augment.client import ChatModel, complete_all
from moe.augment.filters import clean_response, rejection_reason, strip_thinking
from moe.augment.prompts import Message, build_messages
from moe.augment.response_log import RESPONSE_LOG, LoggedResponse, open_log, read_log
from moe.augment.results import Augmentation, AugmentCounts, AugmentPreview, SamplePrompt
from moe.console import info, progress_bar
from moe.data.augmented_rows import AUGMENTED, AugmentedRow, VariantRequest, plan_variants, text_hash
from moe.data.dedup import NearDuplicateIndex, jaccard, shingles
from moe.data.formats.writers import open_writer
from moe.data.schema import Origin
from moe.data.text_checks import contains_target
from moe.errors import Interrupted
from moe.kinds.registry import task_kind
from moe.qa.answer_parsing import parse_choice
from moe.runs.locking import writes_run
from moe.runs.workspace import Workspace

SHOWN_PROMPTS = 3
NO_RESPONSE = "no response"
WRONG_ANSWER = "the model gives another answer"
FilteredVariant = tuple[VariantRequest, str, str | None]
"""A request, the text written for it, and why the text is dropped (None if it is retained)."""


@dataclass(frozen=True)
class AugmentJob:
    """One task's training rows, the variants to request, and the folder for responses and augmented rows."""

    domain: str
    task: str
    labels: tuple[str, ...]
    rows: Dataset
    texts: list[str]
    requests: list[VariantRequest]
    folder: Path
    prompts: list[str | None]
    targets: list[str | None]

    @property
    def new(self) -> bool:
        """Whether new questions are requested, and not rewritten texts."""
        return bool(self.requests) and self.requests[0].origin == "synthetic"

    @property
    def file(self) -> Path:
        """File of the augmented rows."""
        return self.folder / AUGMENTED

    def key(self, request: VariantRequest, model: str) -> str:
        """Key of a request in the response log; depends on the source text, the kind, the number and the model."""
        return f"{text_hash(self.texts[request.row])}/{request.origin}/{request.number}/{model}"

    def check_key(self, request: VariantRequest, text: str, model: str) -> str:
        """Key of the check prompt about a new text in the response log."""
        return f"{self.key(request, model)}/{text_hash(text)}"

    def counts(self) -> AugmentCounts:
        """Numbers of rows and of requested variants."""
        counts = Counter(request.origin for request in self.requests)
        origins: tuple[Origin, ...] = ("synthetic",) if self.new else ("synonym", "paraphrase")
        wanted: dict[str, int] = {origin: counts[origin] for origin in origins}
        return AugmentCounts(self.domain, self.task, rows=len(self.rows), wanted=wanted)

    def variant_prompt(self, request: VariantRequest) -> list[Message]:
        """Prompt that requests a variant."""
        label = self.rows[request.row]["label"]
        answer = self.labels[label] if label >= 0 else ""
        return build_messages(self.texts[request.row], request.origin, answer, self.labels)

    def check_prompt(self, request: VariantRequest, text: str) -> list[Message]:
        """The task's own question about a new text; the model's answer has to be the source's label."""
        prompt = str(self.prompts[request.row]).replace(self.texts[request.row], text)
        return [{"role": "user", "content": prompt}]


def _check_kinds(work: Workspace, domain: str) -> None:
    for task, its in work.run.tasks_of(domain).items():
        if not task_kind(its.kind).has_class_weights:
            raise Fault("tasks with one label per row", f"{task} of the kind {its.kind}", "choose another --domain")


def build_jobs(work: Workspace, domains: Sequence[str]) -> list[AugmentJob]:
    """Build one job for each task of some domains; only training rows are included.

    Raises:
        Fault: if a domain is unknown, a task of it has another kind than `classes`, or its data cannot be used.
    """
    jobs = []
    for domain in domains:
        work.run.task_settings(domain)
        _check_kinds(work, domain)
        for task, prepared in work.unaugmented(domain).items():
            rows, labels = prepared.splits["train"], work.run.tasks_of(domain)[task].labels
            texts, prompts, new = list(rows["text"]), list(rows["prompt"]), work.run.language is not None
            scored = [score is not None and not new for score in rows["score"]]
            known = [
                -1 if new and not _is_inside_prompt(text, prompt) else label
                for text, prompt, label in zip(texts, prompts, rows["label"], strict=True)
            ]
            requests = plan_variants(known, scored, work.run.data.augment, new)
            if new and not requests:
                info(f"{task}: nothing to augment: rows need a label, and a text that is only a part of the prompt")
            job = AugmentJob(
                domain=domain,
                task=task,
                labels=labels,
                rows=rows,
                texts=texts,
                requests=requests,
                folder=prepared.folder,
                prompts=prompts,
                targets=list(rows["target"]),
            )
            jobs.append(job)
    return jobs


def _is_inside_prompt(text: str, prompt: str | None) -> bool:
    """Whether a text is a proper part of its prompt, so that another text can replace it."""
    return prompt is not None and text != prompt and text in prompt


@writes_run
def preview(work: Workspace, domains: Sequence[str]) -> AugmentPreview:
    """Return what would be requested, counts by task and three sample prompts; nothing is sent."""
    jobs = build_jobs(work, domains)
    pairs = [(job, request) for job in jobs for request in job.requests]
    samples = [pairs[i * len(pairs) // SHOWN_PROMPTS] for i in range(min(SHOWN_PROMPTS, len(pairs)))]
    return AugmentPreview(
        tasks=[job.counts() for job in jobs],
        prompts=[
            SamplePrompt(job.rows[request.row]["id"], request.origin, job.variant_prompt(request))
            for job, request in samples
        ],
    )


@writes_run
def augment(
    work: Workspace,
    domains: Sequence[str],
    endpoint: EndpointConfig,
    overwrite: bool = False,
    resume: bool = False,
    local: bool = False,
) -> Augmentation:
    """Request variants of some domains' training rows and write each task's `augmented.jsonl`.

    Responses are logged in `answers.jsonl` as they arrive; a logged response is never requested again. A new question
    is then put to the model without its answer, and retained only if the model gives the intended one.

    Args:
        work: the run.
        domains: domains to augment.
        endpoint: the model to use.
        overwrite: discard earlier responses and augmented rows.
        resume: reuse logged responses and rewrite the augmented rows.
        local: `endpoint.model` is the folder of a language model, which is run in this process.

    Raises:
        Fault: if a finished file would be overwritten, or the model cannot be used.
        Interrupted: on Ctrl-C; responses received so far are saved.
    """
    settings = work.run.data.augment
    model = LocalModel(endpoint.model, settings) if local else EndpointClient(endpoint, settings)
    concurrency = 1 if local else settings.concurrency
    with closing(model):
        jobs = build_jobs(work, domains)
        for job in jobs:
            refuse_existing(job.file, overwrite or resume)
            settings_of_task = work.run.rows_of(job.domain)[job.task]
            check_output_names(
                job.folder, (AUGMENTED, RESPONSE_LOG), [work.task_file(job.domain, job.task, settings_of_task)], True
            )
        if overwrite:
            for job in jobs:
                (job.folder / RESPONSE_LOG).unlink(missing_ok=True)
        tasks = []
        for job in jobs:
            _request_variants(job, model, endpoint.model, concurrency)
            if job.new:
                _request_checks(job, model, endpoint.model, concurrency, work.held_out.index.threshold)
            tasks.append(_write(job, endpoint.model, work.held_out.index))
    info("to train on these rows, add --set data.augmented=true")
    return Augmentation(endpoint.model, tasks)


def _write(job: AugmentJob, model: str, held_out: NearDuplicateIndex[int]) -> AugmentCounts:
    dropped, retained = Counter[str](), Counter[str]()
    with open_writer(job.file) as writer:
        for request, text, reason in _filter_all(job, model, held_out):
            if reason:
                dropped[reason] += 1
            else:
                retained[request.origin] += 1
                writer.write(_augmented_row(job, request, text, model).model_dump())
    info(f"{job.task}: {retained.total()} of {len(job.requests)} variants retained → {job.file}")
    return replace(job.counts(), kept=dict(retained), dropped=dict(dropped.most_common()), file=str(job.file))


def _request_variants(job: AugmentJob, client: ChatModel, model: str, concurrency: int) -> None:
    """Request and log every variant that the log does not hold yet."""
    requests = {job.key(request, model): request for request in job.requests}  # rows with one text share responses
    prompts = {key: job.variant_prompt(request) for key, request in requests.items()}
    _complete_missing(job, client, f"prompting {model}", prompts, concurrency)


def _request_checks(job: AugmentJob, client: ChatModel, model: str, concurrency: int, threshold: float) -> None:
    """Put the task's question to the model for every new text that passed the other filters."""
    variants = _filter_by_source(job, read_log(job.folder / RESPONSE_LOG), model, threshold)
    prompts = {
        job.check_key(request, text, model): job.check_prompt(request, text)
        for request, text, reason in variants
        if not reason
    }
    _complete_missing(job, client, "checking its answers", prompts, concurrency)


def _complete_missing(
    job: AugmentJob, client: ChatModel, title: str, prompts: Mapping[str, list[Message]], concurrency: int
) -> None:
    path = job.folder / RESPONSE_LOG
    logged = read_log(path)
    missing = {key: prompt for key, prompt in prompts.items() if key not in logged}
    if len(missing) < len(prompts):
        info(f"{job.task}: {len(prompts) - len(missing)} of {len(prompts)} responses reused from an earlier run")
    failures = 0
    try:
        with open_log(path) as log, progress_bar(f"{job.task}: {title}", len(missing), "text") as meter:
            for key, response in complete_all(client, missing.items(), concurrency):
                if response.failure:
                    failures += 1
                else:
                    log.add(key, LoggedResponse(strip_thinking(response.text), response.truncated))
                meter.advance(note=f"{failures} failed" if failures else None)
    except KeyboardInterrupt as stop:
        raise Interrupted from stop


def _filter_all(job: AugmentJob, model: str, held_out: NearDuplicateIndex[int]) -> Iterator[FilteredVariant]:
    """Every requested variant in order, after all filters."""
    log = read_log(job.folder / RESPONSE_LOG)
    variants = list(_filter_by_answer(job, log, model, _filter_by_source(job, log, model, held_out.threshold)))
    usable = ((index, text) for index, (_, text, reason) in enumerate(variants) if not reason)
    leaking = {index for index, others in held_out.query(usable) if others}
    earlier: defaultdict[tuple[str, str | None], list[frozenset[str]]] = defaultdict(list)
    for index, (request, text, reason) in enumerate(variants):
        reason = "near a held-out text" if index in leaking else reason
        pieces = shingles(text) if not reason else frozenset[str]()
        siblings = earlier[job.texts[request.row], job.targets[request.row]]
        if not reason and any(jaccard(pieces, other) >= held_out.threshold for other in siblings):
            reason = "same as another variant"
        if not reason:
            siblings.append(pieces)
        yield request, text, reason


def _filter_by_answer(
    job: AugmentJob, log: Mapping[str, LoggedResponse], model: str, variants: Iterator[FilteredVariant]
) -> Iterator[FilteredVariant]:
    """Drop new questions that the model does not answer as intended; rewritten texts pass unchecked."""
    for request, text, reason in variants:
        if job.new and not reason:
            response = log.get(job.check_key(request, text, model))
            answer = parse_choice(strip_thinking(response.text), job.labels) if response else None
            reason = None if response and answer == job.labels[job.rows[request.row]["label"]] else WRONG_ANSWER
        yield request, text, reason


def _filter_by_source(
    job: AugmentJob, log: Mapping[str, LoggedResponse], model: str, threshold: float
) -> Iterator[FilteredVariant]:
    """Check each variant against its own source."""
    for request in job.requests:
        source, response = job.texts[request.row], log.get(job.key(request, model))
        if response is None:
            yield request, "", NO_RESPONSE
            continue
        text, target = clean_response(response.text, source), job.targets[request.row]
        reason = "truncated" if response.truncated else rejection_reason(text, source, threshold, job.new)
        if not reason and target is not None and not contains_target(text, target):
            reason = "without its target"
        yield request, text, reason


def _augmented_row(job: AugmentJob, request: VariantRequest, text: str, model: str) -> AugmentedRow:
    source = job.rows[request.row]
    return AugmentedRow(
        id=f"{source['id']}+{request.number}",
        text=text,
        label=job.labels[source["label"]] if source["label"] >= 0 else None,
        score=None if source["score"] is None else round(source["score"], 6),
        lang=source["lang"],
        domain=job.domain,
        task=job.task,
        origin=request.origin,
        source_id=source["id"],
        source_hash=text_hash(source["text"]),
        target=source["target"],
        model=model,
    )


def selected_domains(work: Workspace, domain: str | None, all_domains: bool) -> list[str]:
    """Return the domains that a user selected.

    Raises:
        Fault: if neither or both of one domain and all domains are selected.
    """
    if (domain is not None) == all_domains:
        raise Fault(
            "either --domain NAME or --all",
            "both" if all_domains else "neither",
            "select one domain, e.g. --domain news, or all with --all",
        )
    return [domain] if domain is not None else list(work.run.domains)


def endpoint_from_options(
    base_url: str | None, model: str | None, key_env: str, dry_run: bool, local: Path | None = None
) -> EndpointConfig | None:
    """Return the model that a user selected, or None for a dry run.

    Args:
        base_url: address of an endpoint.
        model: name of the model at the endpoint.
        key_env: environment variable with the API key.
        dry_run: whether nothing is to be sent.
        local: folder of a model to run in this process; no address is needed then.

    Raises:
        Fault: if address or model are missing.
    """
    if dry_run:
        return None
    return EndpointConfig("", str(local), key_env) if local else EndpointConfig.from_options(base_url, model, key_env)
