"""Shared fixtures: a tiny random backbone of every supported family, a word-level tokenizer, data and settings."""

import csv
import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker per core needs no threads of its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from moe.config.run import RunSettings, parse_run
from moe.runs.workspace import Workspace

_COMMON: dict[str, object] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED: dict[str, object] = _COMMON | {"num_key_value_heads": 1, "head_dim": 16}
_WINDOW: dict[str, object] = {"sliding_window": 3}
"""Narrower than the test texts, as a real window is narrower than a long text."""

FAMILIES: dict[str, dict[str, object]] = {
    "bert": _COMMON,
    "roberta": _COMMON,
    "xlm-roberta": _COMMON,
    "electra": _COMMON | {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    "deberta-v2": _COMMON
    | {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "modernbert": _COMMON | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 4},
    "mpnet": _COMMON,
    "llama": _GROUPED,
    "mistral": _GROUPED | _WINDOW,
    "gemma": _GROUPED,
    "gemma2": _GROUPED | _WINDOW,
    "gemma3_text": _GROUPED | _WINDOW | {"layer_types": ["sliding_attention", "full_attention"]},
    "phi": _COMMON,
    "phi3": _GROUPED | _WINDOW,
    "qwen3": _GROUPED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2},
    "gpt_neox": _COMMON,
    "opt": _COMMON | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "glm4": _GROUPED,
}
DECODERS = (
    *("llama", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "qwen3", "gpt2", "gpt_neox", "opt", "glm4"),
)


def freeze_imported_objects() -> None:
    """Exempt all objects that exist from garbage collection.

    Every training ends with a full collection, which otherwise takes longer than the training: imports leave about a
    million objects.
    """
    gc.collect()
    gc.freeze()


LONGEST_FILES = ("test_readme.py", "test_expert.py")
"""Files whose slow tests take minutes each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, so that no process of `make test-slow` ends alone with one of them."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


def pytest_collection_finish() -> None:
    """Exempt what the test files have imported."""
    freeze_imported_objects()


@pytest.fixture(scope="module", autouse=True)
def freeze_later_imports() -> Iterator[None]:
    """Exempt what the code has imported while it ran, if it is much."""
    before = len(sys.modules)
    yield
    if len(sys.modules) > before + 50:
        freeze_imported_objects()


def tiny_backbone(family: str = "bert", seed: int = 0) -> PreTrainedModel:
    """Return a random backbone of a family, with two layers of width 32, in evaluation mode."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, vocab_size=99, **FAMILIES[family])
    backbone: PreTrainedModel = AutoModel.from_config(config).eval()
    return backbone


def family_params(*quick: str) -> list[Any]:
    """All supported families; those not in `quick` are slow."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in FAMILIES]


@pytest.fixture(params=family_params(*FAMILIES.keys() - {"xlm-roberta"}))
def family(request: pytest.FixtureRequest) -> str:
    """Each supported family in turn; XLM-RoBERTa runs RoBERTa's code, so that it is slow."""
    name: str = request.param
    return name


GOOD, BAD, FLAT = ("rose", "gained", "beat"), ("fell", "lost", "missed"), ("held", "stayed", "kept")
NOUNS = {
    "news": ("profit", "sales", "bank", "shares", "orders", "margin"),
    "forum": ("moon", "bags", "calls", "puts", "chart", "dip"),
    "macro": ("rates", "yields", "jobs", "prices", "exports", "growth"),
}
LABELS = ("negative", "neutral", "positive")
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "today", "again", "and", "of", "with", *GOOD, *BAD, *FLAT]
WORDS += [noun for nouns in NOUNS.values() for noun in nouns]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word, between [CLS] and [SEP]; the segments of a pair end with [SEP]."""
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = Whitespace()
    core.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )


def save_backbone(folder: Path, family: str = "bert", seed: int = 0) -> Path:
    """Save a tiny backbone with its tokenizer in a folder that transformers can load."""
    tiny_backbone(family, seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny BERT."""
    return save_backbone(tmp_path_factory.mktemp("bert"))


def made_up_rows(domain: str, count: int = 90, seed: int = 0) -> list[dict[str, Any]]:
    """Return synthetic rows: sentences whose verb decides the label, none a near duplicate of another."""
    source = random.Random(f"{domain}{seed}")
    rows = []
    for i in range(count):
        label = i % 3
        words = [*source.sample(NOUNS[domain], 4), *source.sample(["the", "today", "again", "and", "of", "with"], 4)]
        words.append(source.choice((BAD, FLAT, GOOD)[label]))
        source.shuffle(words)
        split = "test" if i % 10 > 7 else "validation" if i % 10 > 5 else "train"
        row = {"id": f"{domain}{i}", "text": " ".join(words), "label": LABELS[label], "score": 0.8 * (label - 1)}
        rows.append(row | {"split": split})
    return rows


def entity_rows(domain: str, count: int = 60) -> list[dict[str, Any]]:
    """Return two rows for each text: one names a noun that does well in it, the other a noun that does badly.

    The rows have no split of their own, and a text has one id.
    """
    source = random.Random(f"entities {domain}")
    rows = []
    for i in range(count // 2):
        good, bad, *others = source.sample(NOUNS[domain], 4)
        words = [source.choice(GOOD), good, source.choice(BAD), bad, *others, *source.sample(["the", "again", "of"], 2)]
        text = " ".join(words)
        rows += [
            {"id": f"{domain}{i}", "text": text, "entity": entity, "label": label}
            for entity, label in ((good, "positive"), (bad, "negative"))
        ]
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def merged_settings(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge nested settings; `over` takes precedence."""
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = merged_settings(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def tiny_settings(folder: Path, data: Path, /, **over: Any) -> dict[str, Any]:
    """Return the settings of a run on the tiny backbone: news and forum, a few steps per stage."""
    few = {"batch_size": 8, "evals": 1}
    base = {
        "seed": 7,
        "backbone": {"name": str(folder), "trunk_depth": 1, "max_length": 16, "dtype": "float32"},
        "data": {"folder": str(data), "near_duplicates": None},
        "domains": {name: {"file": f"{name}.csv", "labels": list(LABELS)} for name in ("news", "forum")},
        "shared": None,
        "heads": {"merge": "averaged"},
        "gate": {"queries": 0},
        "losses": {"smoothing": 0.0},
        "lora": {"r": 4, "alpha": 8},
        "stages": {
            "shared": few | {"steps": 6, "lr": 0.01},
            "expert": few | {"steps": 6, "lr": 0.01},
            "warmup": few | {"steps": 6, "router_lr": 1e-3, "head_lr": 1e-3},
            "joint": few | {"steps": 6, "lr": 1e-3, "router_lr": 1e-3, "head_lr": 1e-3},
        },
    }
    return merged_settings(base, over)


def entity_tasks(**over: Any) -> dict[str, Any]:
    """Return settings of a domain with a task about whole texts and one about their entities."""
    texts = {"file": "news.csv", "labels": list(LABELS)}
    split = {"ratios": [60, 20, 20]}
    entities = {"file": "entities.csv", "labels": list(LABELS), "columns": {"target": "entity"}, "split": split}
    return {"news": {"file": None, "labels": [], "tasks": {"news": texts, "entities": entities | over}}}


Make = Callable[..., Workspace]


@pytest.fixture
def make_work(tiny_folder: Path, tmp_path: Path) -> Make:
    """Factory of workspaces on the tiny backbone; keyword arguments override settings."""
    for domain in NOUNS:
        write_csv(tmp_path / "data" / f"{domain}.csv", made_up_rows(domain))
    write_csv(tmp_path / "data" / "entities.csv", entity_rows("news"))
    write_csv(tmp_path / "data" / "topics.csv", topic_rows())

    def make(out: str = "run", **over: Any) -> Workspace:
        return Workspace(tiny_run(tiny_folder, tmp_path / "data", **over), tmp_path / out)

    return make


def tiny_run(folder: Path, data: Path, /, **over: Any) -> RunSettings:
    """Return the validated tiny settings."""
    return parse_run(tiny_settings(folder, data, **over), "test")


TOPICS = ("good", "bad", "flat")


def topic_rows(count: int = 120, seed: int = 0) -> list[dict[str, Any]]:
    """Return synthetic rows of a multi-label task: the words of a text decide which of the topics it has, if any."""
    source = random.Random(f"topics {seed}")
    rows = []
    for i in range(count):
        words = [*source.sample(NOUNS["news"], 4), *source.sample(["the", "today", "again", "and", "of", "with"], 3)]
        sets = [name for name in TOPICS if source.random() < 0.4]
        words += [source.choice({"good": GOOD, "bad": BAD, "flat": FLAT}[name]) for name in sets]
        source.shuffle(words)
        split = "test" if i % 10 > 7 else "validation" if i % 10 > 4 else "train"
        rows.append({"id": f"topic{i}", "text": " ".join(words), "label": ";".join(sets), "split": split})
    return rows


def topic_domain(**over: Any) -> dict[str, Any]:
    """Return settings of a domain with a multi-label task."""
    return {"news": {"file": "topics.csv", "labels": list(TOPICS), "kind": "multi_label"} | over}


SCORE_ALONE = {"forum": {"kind": "score", "labels": []}}
"""Settings of a domain with a task that has a score alone; the label column of its file is not read."""
