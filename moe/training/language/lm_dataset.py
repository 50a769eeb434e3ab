"""Corpora of a language model's run as training data: packed for pre-training, one document per row for routing."""

from collections.abc import Mapping, Sequence
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
from moe.model.backbone_ops import PackingMode, find_packing_mode
from moe.model.lm_head import LanguageSettings, LMHead
from moe.model.mixture import Mixture
from moe.runs.layout import DATA
from moe.runs.selection_metric import PERPLEXITY
from moe.runs.workspace import Workspace
from moe.training.stage import TrainingData

GENERAL = "general"


@dataclass
class LMCorpora:
    """The corpora of a run, tokenized for its backbone.

    Args:
        work: the run.
        model: gives the tokenizer, and the backbone that determines how packed documents are kept apart.
    """

    work: Workspace
    model: Mixture

    @cached_property
    def _packing(self) -> PackingMode | None:
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
        """Tokenizer of documents.

        Args:
            packed: put several documents in a row, if the backbone can keep them apart.
        """
        run = self.work.run
        name, size = identify_backbone(run.backbone).sha256, run.backbone.resolved_length
        ends = self._head.kind == "causal"
        packed = packed and self._packing is not None
        return CorpusTokenizer(self.model.loaded_backbone.tokenizer, name, size, ends, packed)

    def collator(self, packed: bool) -> PretrainingCollator:
        """Collator of rows that `tokenizer(packed)` made."""
        packing, dtype = self._packing, self.model.backbone.dtype
        inputs = (lambda positions: packing.inputs(positions, dtype)) if packed and packing is not None else None
        names = [domain.name for domain in self.model.domains]
        return PretrainingCollator(
            self.model.loaded_backbone.tokenizer, self._head.kind, names, inputs, self._settings.masked
        )

    def corpus(self, domain: str, packed: bool) -> Corpus:
        """Corpus of a domain, or the general one.

        Raises:
            Fault: if the config names no file for it, or one that cannot be read.
        """
        run = self.work.run
        names = self._settings.general if domain == GENERAL else run.domains[domain].corpus
        folder = (self.work.data_dir or self.work.out) / DATA / domain / ("packed" if packed else "documents")
        files = [run.data.path(name) for name in names]
        with distributed.main_process_first():
            return prepare_corpus(files, domain, self.tokenizer(packed), self._settings.held_out, folder)

    def packed_data(self, domains: Sequence[str]) -> TrainingData:
        """Packed text of some domains with a share of general text, evaluated on the held-out part of every corpus.

        Args:
            domains: whose text is trained on; their held-out parts give the perplexity that selects the best weights.
        """
        if self._packing is None:
            info("no known way to keep packed documents apart in this backbone: using one document per row")
        rows, held_out, collate = self._training_mix(domains), self._held_out(packed=True), self.collator(packed=True)

        def evaluate(held_out: Mapping[str, Dataset]) -> dict[str, float]:
            evaluations = {name: evaluate_perplexity(self.model, rows, collate) for name, rows in held_out.items()}
            own = sum((evaluations[name] for name in domains), start=LMEvaluation())
            return {"perplexity": own.perplexity, **perplexity_fields(evaluations)}

        return TrainingData(rows, collate, held_out, evaluate, PERPLEXITY)

    def routed_data(self) -> TrainingData:
        """Documents of all domains, one per row, evaluated on the held-out parts of all their corpora."""
        domains = self.work.run.domains
        names = [domain.name for domain in self.model.domains]
        rows = concatenate_datasets(
            [_spread(self.corpus(name, packed=False).train, domains[name].max_train_rows) for name in names]
        )
        held_out, collate = self.held_out_documents(), self.collator(packed=False)

        def evaluate(held_out: Mapping[str, Dataset]) -> dict[str, float]:
            return evaluate_perplexities(self.model, held_out, collate)

        return TrainingData(rows, collate, held_out, evaluate, PERPLEXITY)

    def held_out_documents(self) -> dict[str, Dataset]:
        """Held-out documents of each domain, one per row."""
        held_out = self._held_out(packed=False)
        held_out.pop(GENERAL, None)
        return held_out

    def _held_out(self, packed: bool) -> dict[str, Dataset]:
        """Held-out rows of every corpus of the run, at most `max_validation_rows` of each."""
        caps = {name: domain.max_validation_rows for name, domain in self.work.run.domains.items() if domain.corpus}
        if self._settings.general:
            caps[GENERAL] = max((cap for cap in caps.values() if cap), default=None)
        return {name: _spread(self.corpus(name, packed).held_out, cap) for name, cap in caps.items()}

    def _training_mix(self, names: Sequence[str]) -> Dataset:
        """Training rows of some domains, followed by the configured share of general text."""
        domains = self.work.run.domains
        parts = [_spread(self.corpus(name, packed=True).train, domains[name].max_train_rows) for name in names]
        own = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        mix = self._settings.mix
        if not self._settings.general or not mix:
            return own
        general = self.corpus(GENERAL, packed=True).train
        count = max(1, round(mix / (1 - mix) * len(own)))
        if count > len(general):
            info(f"{', '.join(names)}: language.mix needs {count} rows of general text, only {len(general)} available")
        return concatenate_datasets([own, _spread(general, count)])


def _spread(rows: Dataset, max_rows: int | None) -> Dataset:
    """At most `max_rows` rows, evenly spaced."""
    if max_rows is None or max_rows >= len(rows):
        return rows
    return rows.select(np.linspace(0, len(rows) - 1, max_rows).round().astype(int).tolist())
