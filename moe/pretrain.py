"""Role pre-training: an expert of a language model learns its role's plain text, mixed with some general text.

The rows are made in `moe.data.corpus`; the loop is every stage's, `moe.stage_run`.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from experts.adapter import fresh_adapter
from experts.domain import Domain
from experts.errors import Fault, guess
from experts.files import refuse_existing
from experts.folder import write_expert
from moe.alone import expert_model
from moe.backbone import identify
from moe.data.corpus import Corpus, Tokens, prepare_corpus
from moe.data.text_batches import TextCollator
from moe.model import Mixture
from moe.packing import way_to_pack
from moe.perplexity import perplexities
from moe.progress import say
from moe.stage_run import Lesson, run_stage
from moe.stages import PRETRAIN
from moe.steps import expert_card
from moe.workspace import Workspace

GENERAL = "general"


def pretrain(work: Workspace, role: str | None = None, overwrite: bool = False, resume: bool = False) -> list[Path]:
    """Pre-train the experts of one role, or of all, and write their folders.

    Args:
        role: as `domains.NAME.role` says, the domain's own name by default; None takes every role.

    Raises:
        Fault: when the run has no language model or no such role, a corpus is missing or bad, or a finished expert
            would be overwritten.
    """
    if work.run.language is None:
        raise Fault("a run over a language model", "a config without language", "add `language: {}` to the config")
    roles = list(dict.fromkeys(one.group for one in work.run.domain_list()))
    if role is not None and role not in roles:
        raise Fault(f"one of the roles {', '.join(roles)}", repr(role), guess(role, roles))
    folders = []
    for domain in work.run.domain_list():
        for k, name in enumerate(domain.expert_names if role in (None, domain.group) else ()):
            folder = work.expert_folder(name)
            if resume and folder.is_dir():
                say(f"{name}: finished before, kept")
            else:
                _pretrain_one(work, domain, name, work.run.seed + k, overwrite, resume)
            folders.append(folder)
    return folders


def _pretrain_one(work: Workspace, domain: Domain, name: str, seed: int, overwrite: bool, resume: bool) -> None:
    folder = work.expert_folder(name)
    refuse_existing(folder, overwrite)
    model = expert_model(work.run, name, fresh_adapter, False, seed)
    model.only = name
    shelf = Shelf(work, model)
    lesson = shelf.lesson(domain.name)
    before = lesson.evaluate()
    say(f"{name}: before, {_told(before)}")
    fitted = run_stage(work, model, PRETRAIN, lesson, seed, name, resume, learner=name)
    write_expert(
        folder,
        expert_card(work, domain, name, model, False, seed, fitted, None, shelf.hashes(domain.name)),
        model.bank.attached[name].adapter,
        model.bank.saved(name),
        model.heads.state_dict(),
        work.run.as_yaml(),
        {"best": fitted.best, "history": [before | {"step": 0}, *fitted.history], "steps": fitted.steps},
        overwrite,
    )
    shutil.rmtree(work.checkpoints(name), ignore_errors=True)
    say(f"{name}: {fitted.steps} steps, {_told(fitted.best)} → {folder}")


def _told(figures: Mapping[str, float]) -> str:
    named = {key.removeprefix("perplexity_"): value for key, value in figures.items() if key.startswith("perplexity_")}
    return "perplexity on " + ", ".join(f"{name} {value:.2f}" for name, value in named.items())


@dataclass
class Shelf:
    """The corpora of a run as rows of tokens of its backbone.

    Args:
        work: the run.
        model: whose tokenizer makes the tokens, and whose backbone tells how documents are kept apart.
    """

    work: Workspace
    model: Mixture

    @cached_property
    def _way(self) -> Any:
        return way_to_pack(self.model.backbone)

    @cached_property
    def _kind(self) -> Any:
        assert self.model.source.language is not None
        return self.model.source.language.kind

    @cached_property
    def tokens(self) -> Tokens:
        """How text becomes rows here."""
        run = self.work.run
        name = identify(run.backbone).sha256
        size, packed = run.backbone.max_length, self._way is not None
        if not packed:
            say("this backbone keeps documents in one row apart in no way that we know: one document a row")
        return Tokens(self.model.source.tokenizer, name, size, self._kind == "causal", packed)

    @cached_property
    def collate(self) -> TextCollator:
        """Makes batches of the rows."""
        run = self.work.run
        assert run.language is not None
        dtype = self.model.backbone.dtype
        apart = (lambda places: self._way.inputs(places, dtype)) if self._way else None
        names = [domain.name for domain in self.model.domains]
        return TextCollator(self.model.source.tokenizer, self._kind, names, apart, run.language.masked)

    def corpus(self, domain: str) -> Corpus:
        """A domain's own text, or the general one.

        Raises:
            Fault: when it names no file, or one that cannot be read.
        """
        run = self.work.run
        assert run.language is not None
        named = run.language.general if domain == GENERAL else run.domains[domain].corpus
        folder = (self.work.store or self.work.out) / "data" / domain / "corpus"
        files = [run.data.path(name) for name in named]
        return prepare_corpus(files, domain, self.tokens, run.language.held_out, folder)

    def lesson(self, domain: str) -> Lesson:
        """A domain's text with its share of general text, judged by perplexity on what was held out of every corpus."""
        rows, held_out = self._mixed(domain), self.held_out()

        def evaluate() -> dict[str, float]:
            found = perplexities(self.model, held_out, self.collate)
            return {"perplexity": found[f"perplexity_{domain}"], **found}

        return Lesson(rows, self.collate, evaluate, goal="perplexity")

    def held_out(self) -> dict[str, Dataset]:
        """The held-out rows of every corpus of the run, at most `max_validation_rows`, evenly taken."""
        run = self.work.run
        assert run.language is not None
        caps = {name: one.max_validation_rows for name, one in run.domains.items() if one.corpus}
        if run.language.general:
            caps[GENERAL] = max((cap for cap in caps.values() if cap), default=None)
        return {name: _evenly(self.corpus(name).held_out, cap) for name, cap in caps.items()}

    def _mixed(self, domain: str) -> Dataset:
        own, language = self.corpus(domain).train, self.work.run.language
        assert language is not None
        if not language.general or not language.mix:
            return own
        general = self.corpus(GENERAL).train
        wanted = round(language.mix / (1 - language.mix) * len(own))
        if wanted > len(general):
            say(f"{domain}: {wanted} rows of general text asked for, {len(general)} are there")
        return concatenate_datasets([own, _evenly(general, max(1, wanted))])

    def hashes(self, domain: str) -> dict[str, str]:
        """One SHA-256 over a domain's corpus, file by file."""
        report = self.corpus(domain).key["files"]
        return {domain: hashlib.sha256(repr(report).encode()).hexdigest()}


def _evenly(rows: Dataset, most: int | None) -> Dataset:
    """At most so many rows, at equal distances."""
    if most is None or most >= len(rows):
        return rows
    return rows.select(np.linspace(0, len(rows) - 1, most).round().astype(int).tolist())
