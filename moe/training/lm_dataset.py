"""The corpora of a language model's run, as lessons: a role's documents packed, or all roles' one by one to be routed.

How text becomes rows is `moe.data.pretraining_corpus`'s; who learns from them is `moe.training.pretrain`'s and
`moe.training.steps`'.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from datasets import Dataset, concatenate_datasets

from moe import distributed
from moe.console import info
from moe.data.lm_collator import PretrainingCollator
from moe.data.pretraining_corpus import Corpus, CorpusTokenizer, prepare_corpus
from moe.evaluation.perplexity import LMEvaluation, evaluate_perplexities, evaluate_perplexity, perplexity_fields
from moe.model.backbone import identify_backbone
from moe.model.lm_head import LanguageSettings, LMHead
from moe.model.mixture import Mixture
from moe.model.packing import PackingMode, find_packing_mode
from moe.runs.selection_metric import PERPLEXITY
from moe.runs.workspace import Workspace
from moe.training.stage import TrainingData

GENERAL = "general"


@dataclass
class LMCorpora:
    """The corpora of a run as rows of tokens of its backbone.

    Args:
        work: the run.
        model: whose tokenizer makes the tokens, and whose backbone tells how documents are kept apart.
    """

    work: Workspace
    model: Mixture

    @cached_property
    def _way(self) -> PackingMode | None:
        return find_packing_mode(self.model.backbone)

    @property
    def _head(self) -> LMHead:
        assert self.model.loaded_backbone.lm_head is not None
        return self.model.loaded_backbone.lm_head

    @property
    def _settings(self) -> LanguageSettings:
        assert self.work.run.language is not None
        return self.work.run.language

    def tokenizer(self, packed: bool) -> CorpusTokenizer:
        """How text becomes rows here; packed where the backbone can keep documents apart."""
        run = self.work.run
        name, size = identify_backbone(run.backbone).sha256, run.backbone.max_length
        ends = self._head.kind == "causal"
        return CorpusTokenizer(self.model.loaded_backbone.tokenizer, name, size, ends, packed and self._way is not None)

    def collator(self, packed: bool) -> PretrainingCollator:
        """Makes batches of such rows."""
        way, dtype = self._way, self.model.backbone.dtype
        apart = (lambda places: way.inputs(places, dtype)) if packed and way is not None else None
        names = [domain.name for domain in self.model.domains]
        return PretrainingCollator(
            self.model.loaded_backbone.tokenizer, self._head.kind, names, apart, self._settings.masked
        )

    def corpus(self, domain: str, packed: bool) -> Corpus:
        """A domain's own text, or the general one.

        Raises:
            Fault: when it names no file, or one that cannot be read.
        """
        run = self.work.run
        named = self._settings.general if domain == GENERAL else run.domains[domain].corpus
        folder = (self.work.data_dir or self.work.out) / "data" / domain / ("packed" if packed else "documents")
        files = [run.data.path(name) for name in named]
        with distributed.main_process_first():
            return prepare_corpus(files, domain, self.tokenizer(packed), self._settings.held_out, folder)

    def packed_data(self, learned: Sequence[str]) -> TrainingData:
        """Some domains' text with its share of general text, judged on what was held out of every corpus by itself.

        Args:
            learned: those domains; what was held out of them gives the perplexity that is to fall.
        """
        if self._way is None:
            info("this backbone keeps documents in one row apart in no way that we know: one document a row")
        rows, held_out, collate = self._mixed(learned), self._held_out(True), self.collator(True)

        def evaluate() -> dict[str, float]:
            found = {name: evaluate_perplexity(self.model, rows, collate) for name, rows in held_out.items()}
            own = sum((found[name] for name in learned), start=LMEvaluation())
            return {"perplexity": own.perplexity, **perplexity_fields(found)}

        return TrainingData(rows, collate, evaluate, PERPLEXITY)

    def routed_data(self) -> TrainingData:
        """Every domain's documents, each to be routed, judged on what was held out of all of them together."""
        domains = [domain.name for domain in self.model.domains]
        rows = concatenate_datasets([self._trained_on(name) for name in domains])
        held_out, collate = self._held_out(False), self.collator(False)
        held_out.pop(GENERAL, None)

        return TrainingData(rows, collate, lambda: evaluate_perplexities(self.model, held_out, collate), PERPLEXITY)

    def _trained_on(self, domain: str) -> Dataset:
        return _evenly(self.corpus(domain, False).train, self.work.run.domains[domain].max_train_rows)

    def _held_out(self, packed: bool) -> dict[str, Dataset]:
        """The held-out rows of every corpus of the run, at most `max_validation_rows`, evenly taken."""
        caps = {name: one.max_validation_rows for name, one in self.work.run.domains.items() if one.corpus}
        if self._settings.general:
            caps[GENERAL] = max((cap for cap in caps.values() if cap), default=None)
        found = {name: _evenly(self.corpus(name, packed).held_out, cap) for name, cap in caps.items()}
        probe = self.work.dry_run
        return found if probe is None else {name: probe.subset(rows) for name, rows in found.items()}

    def _mixed(self, learned: Sequence[str]) -> Dataset:
        domains = self.work.run.domains
        parts = [_evenly(self.corpus(name, True).train, domains[name].max_train_rows) for name in learned]
        own = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        mix = self._settings.mix
        if not self._settings.general or not mix:
            return own
        general = self.corpus(GENERAL, True).train
        wanted = max(1, round(mix / (1 - mix) * len(own)))
        if wanted > len(general):
            info(f"{', '.join(learned)}: {wanted} rows of general text asked for, {len(general)} are there")
        return concatenate_datasets([own, _evenly(general, wanted)])

    def digest(self, domain: str) -> str:
        """One SHA-256 over a domain's corpus, file by file."""
        return hashlib.sha256(repr(self.corpus(domain, True).key["files"]).encode()).hexdigest()


def _evenly(rows: Dataset, most: int | None) -> Dataset:
    """At most so many rows, at equal distances."""
    if most is None or most >= len(rows):
        return rows
    return rows.select(np.linspace(0, len(rows) - 1, most).round().astype(int).tolist())
