"""Hostile input: whatever configs, files, manifests and texts contain, the only error is a fault, and it comes quickly.

Hypothesis draws the cases; each test sets their number, which SECURITY.md lists.
"""

import ast
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import tiny_run, tiny_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixtures import random_mixture

from experts.atomic_io import check_manifest
from experts.errors import Fault
from experts.expert_io import read_expert_card
from experts.json_io import to_json
from moe.checkpoints.mixture import parse_mixture_card
from moe.config.run import RunSettings, load_run, parse_run
from moe.data.profile import inspect_file
from moe.inference.stream import predict_rows, predict_texts
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import BackboneSettings, load_backbone
from moe.runs.workspace import Workspace

ROOT = Path(__file__).parent.parent
SOON = settings(
    deadline=timedelta(seconds=10),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
ANYTHING = st.text(st.characters(codec=None, categories=None), max_size=60)
"""Every code point: control characters, right to left, emoji, lone surrogates, NUL."""
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), ANYTHING, st.integers(10**4000, 10**4001), st.dates()
)


def keys_of(model: Any, depth: int = 3) -> set[str]:
    """Keys that a config may hold, so that odd values reach nested settings."""
    keys = set(getattr(model, "model_fields", {}))
    for field in getattr(model, "model_fields", {}).values():
        keys |= keys_of(field.annotation, depth - 1) if depth else set()
    return keys


KEYS = st.one_of(st.sampled_from(sorted(keys_of(RunSettings) | {"news", "forum"})), ANYTHING)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=20,
)


def raw(text: str) -> bytes:
    """A text as bytes, including unpaired surrogates."""
    return text.encode("utf-8", "surrogatepass")


def as_json(value: Any) -> bytes:
    return raw(json.dumps(value, default=str))


YAMLS = st.one_of(st.binary(max_size=200), ANYTHING.map(raw), TREES.map(lambda tree: raw(yaml.dump(tree))))
CARDS = st.one_of(
    st.binary(max_size=200),
    TREES.map(as_json),
    st.dictionaries(ANYTHING, SCALARS, max_size=5).map(lambda names: as_json({"sha256": names})),
)
CELLS = st.one_of(st.none(), st.floats(), ANYTHING, st.lists(ANYTHING, max_size=2))
COLUMNS = st.sampled_from(["text", "label", "score", "id", "x"])
FILES = st.one_of(
    st.binary(max_size=400),
    st.lists(ANYTHING, max_size=8).map(lambda lines: raw("\n".join(lines))),
    st.lists(st.lists(ANYTHING, min_size=1, max_size=4), max_size=5).map(
        lambda rows: raw("text,label\n" + "\n".join(",".join(row) for row in rows))
    ),
    st.lists(st.dictionaries(COLUMNS, CELLS, max_size=4), max_size=5).map(
        lambda rows: b"\n".join(as_json(row) for row in rows)
    ),
)


def only_faults(call: Callable[[], object]) -> None:
    """Call the function; it may raise nothing but a fault."""
    with suppress(Fault):
        call()


@settings(SOON, max_examples=400)
@given(raw=st.dictionaries(KEYS, TREES, max_size=6))
def test_config_of_any_tree_gives_settings_or_a_fault(raw: dict[str, Any]) -> None:
    only_faults(lambda: parse_run(raw, "any.yaml"))


@settings(SOON, max_examples=300)
@given(path=st.lists(KEYS, min_size=1, max_size=4), value=TREES)
def test_config_with_any_value_gives_settings_or_a_fault(path: list[str], value: Any) -> None:
    raw = tiny_settings(Path("model"), Path("data"))
    node: Any = raw
    for key in path[:-1]:
        node = node.setdefault(key, {}) if isinstance(node, dict) else {}
    if isinstance(node, dict):
        node[path[-1]] = value
    only_faults(lambda: parse_run(raw, "any.yaml"))


@settings(SOON, max_examples=300)
@given(content=YAMLS)
def test_config_file_of_any_bytes_gives_settings_or_a_fault(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.yaml").write_bytes(content)
    only_faults(lambda: load_run(tmp_path / "any.yaml"))


@settings(SOON, max_examples=200)
@given(key=ANYTHING, value=ANYTHING)
def test_config_with_any_override_gives_settings_or_a_fault(key: str, value: str) -> None:
    only_faults(lambda: load_run(ROOT / "configs" / "demo.yaml", [f"{key}={value}"]))


LETTERS = "abcdefghi"
ALIASES = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise(LETTERS)]
BOMB = list(itertools.pairwise(LETTERS))
TRAPS = {
    "a deep list": "[" * 20_000,
    "a deep mapping": "{a: " * 5_000,
    "a billion aliases": "\n".join(["a: &a [x, x, x, x, x, x, x, x, x]", *ALIASES, "domains: *i"]),
    "a self-reference": "a: &a {b: *a}",
    "a long number": "seed: " + "9" * 5_000,
    "a long number in hex": "seed: 0x" + "f" * 6_000,
    "a negative seed": "seed: -1\ndomains: [news]",
    "a long name": "domains: {" + "a" * 300 + ": null}",
    "a path as a name": "domains: {../../etc/passwd: null}",
    "a merge bomb": "\n".join(["a: &a {k: v}", *(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}" for a, b in BOMB)]),
    "megabytes of keys": "\n".join(f"key{i}:" for i in range(300_000)),
    "an empty number": "seed: !!int ''",
    "no timestamp": "seed: !!timestamp 99",
    "a second document": "seed: 1\n---\nseed: 2",
    "a NaN as a key": ".nan: 1",
    "a function call": '!!python/object/apply:os.system ["true"]',
    "a repeated key": "domains: [news]\ndomains: [forum]",
}


@pytest.mark.parametrize("text", TRAPS.values(), ids=TRAPS)
def test_config_with_a_yaml_trap_is_a_fault_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "trap.yaml").write_text(text)
    with pytest.raises(Fault) as error:
        load_run(tmp_path / "trap.yaml")
    assert len(str(error.value)) < 2_000


@settings(SOON, max_examples=400)
@given(content=FILES, ending=st.sampled_from([".csv", ".jsonl", ".txt", ".parquet"]))
def test_data_of_any_bytes_gives_rows_rejects_or_a_fault(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"any{ending}"
    path.write_bytes(content)
    only_faults(lambda: json.dumps(to_json(inspect_file(path)), allow_nan=False))


@settings(SOON, max_examples=300)
@given(content=CARDS)
def test_manifest_or_card_of_any_bytes_is_a_fault(tmp_path: Path, content: bytes) -> None:
    for name in ("manifest.json", "expert.json", "mixture.json"):
        (tmp_path / name).write_bytes(content)
    only_faults(lambda: check_manifest(tmp_path, "a mixture"))
    for parse in (lambda: read_expert_card(tmp_path / "expert.json"), lambda: parse_mixture_card(tmp_path)):
        with pytest.raises(Fault):
            parse()


@pytest.fixture(scope="module")
def predictor(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TorchPredictor:
    """A mixture on the shipped backbone, which has a real tokenizer."""
    work = Workspace(tiny_run(tiny_folder, tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("run"))
    return TorchPredictor(random_mixture(load_backbone(BackboneSettings(dtype="float32")), work), "{text}", 64)


def finite(row: dict[str, Any]) -> bool:
    values = [*row["probabilities"].values(), *row["experts"].values(), row["confidence"]]
    return bool(np.isfinite(values).all()) and abs(sum(row["probabilities"].values()) - 1) < 1e-3


@settings(SOON, max_examples=150)
@given(texts=st.lists(ANYTHING, min_size=1, max_size=6))
def test_predictor_returns_finite_numbers_for_any_texts(predictor: TorchPredictor, texts: list[str]) -> None:
    rows = list(predict_rows([{"text": text} for text in texts], predictor))
    assert len(rows) == len(texts)
    assert all(finite(row) for row in rows)
    json.dumps(rows, allow_nan=False)


ODD = {
    "a megabyte without a space": "x" * 1_000_000,
    "a megabyte of digits": "7" * 1_000_000,
    "a megabyte of emoji": "😀" * 250_000,
    "a megabyte of spaces": " " * 1_000_000 + "a",
    "right to left": "\u202eسعر السهم ارتفع\u202c" * 20,
    "NUL": "profit\0rose",
    "lone surrogate": "profit \ud800 rose",
    "combining marks": "e" + "\u0301" * 5_000,
    "control characters": "".join(map(chr, range(32))) + "\x7f\x1b[2J",
    "invisible characters": "\u200b\u200b\ufeff",
    "noncharacters": "\ufffe\uffff\U0010ffff",
}


@pytest.mark.parametrize("name", ODD)
def test_predictor_returns_finite_numbers_for_odd_texts(predictor: TorchPredictor, name: str) -> None:
    (row,) = predict_rows([{"text": ODD[name]}], predictor)
    assert finite(row)


def test_predictor_batches_odd_texts_without_changing_other_predictions(predictor: TorchPredictor) -> None:
    alone = predict_texts(["profit rose"], predictor)[0].probabilities
    in_batch = predict_texts(["profit rose", *ODD.values()], predictor)[0].probabilities
    np.testing.assert_allclose(alone, in_batch, atol=1e-3)


def unsafe_call(node: ast.AST) -> str | None:
    """Name of the construct if it may run foreign code, else None."""
    pickles = {"pickle", "dill", "joblib", "marshal", "shelve"}
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
        return next((name for name in names if name.split(".")[0] in pickles), None)
    if isinstance(node, ast.keyword):
        always = isinstance(node.value, ast.Constant) and node.value.value is True
        return node.arg if node.arg == "trust_remote_code" and always else None
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        return called if called in {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "np.load"} else None
    return None


def test_modules_neither_unpickle_nor_run_code_of_a_model() -> None:
    modules = [path for part in ("moe", "experts", "router") for path in (ROOT / part).rglob("*.py")]
    unsafe = {
        f"{path.relative_to(ROOT).as_posix()}: {name}"
        for path in [*ROOT.glob("*.py"), *modules]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (name := unsafe_call(node))
    }
    assert not unsafe
    assert unsafe_call(ast.parse("torch.load(path)", mode="eval").body) == "torch.load"
    assert unsafe_call(ast.parse("from pickle import loads").body[0]) == "pickle"


PARSERS = {"json.loads", "json.load", "yaml.load", "yaml.safe_load", "yaml.parse", "yaml.compose"}
ALLOWED = {
    "experts/json_io.py: json.loads",
    "experts/yaml_io.py: yaml.parse",
    "moe/distributed.py: json.loads",  # what rank 0 has just written
}


def test_only_the_two_wrappers_call_a_json_or_yaml_parser() -> None:
    """Any other caller would need a list of what the parser can raise."""
    modules = [path for part in ("moe", "experts", "router") for path in (ROOT / part).rglob("*.py")]
    calls = {
        f"{path.relative_to(ROOT).as_posix()}: {ast.unparse(node.func)}"
        for path in modules
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in PARSERS
    }
    formats = {call for call in calls if call.startswith("moe/data/formats/")}
    assert calls - formats == ALLOWED
