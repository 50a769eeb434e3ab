"""Tests of error messages: what YAML reads as another type is refused with its line and what to write."""

import math
from pathlib import Path
from typing import Any

import pytest

from experts.errors import Fault
from moe.config.messages import ConfigFault
from moe.config.run import load_run
from moe.inference.load_mixture import override_backbone
from moe.model.backbone import BackboneSettings
from moe.serve.settings import read_settings
from moe.sweep.grid import check_sweep, read_plan

HEAD = "domains:\n  news:\n    file: plain.csv\n    labels: [down, up]\n"  # four lines


def errors_of(folder: Path, text: str, *sets: str) -> str:
    """Return the error of a config."""
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Fault) as caught:
        load_run(path, sets)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: on", "seed: expected a number, found on, which YAML reads as a boolean (line 5)"),
        ("stages: {joint: {steps: yes}}", "stages.joint.steps: expected a number, found yes, which"),
        ("stages: {joint: {lr: No}}", "stages.joint.lr: expected a number, found No, which"),
        ("lora:\n  r: true", "lora.r: expected a number, found true, which YAML reads as a boolean (line 6)"),
        ("gate: {top_k: off}", "gate.top_k: expected a number, found off"),
        ("losses: {constants: {domain: on}}", "losses.constants.domain: expected a number, found on"),
        ("dao: {relative_bounds: [0, yes]}", "dao.relative_bounds.1: expected a number, found yes"),
        ("backbone: {max_length: on}", "backbone.max_length: expected a number, found on"),
        ("sample: {rows: yes}", "sample.rows: expected a number, found yes"),
        ("seed: 010", "line 5: 010 is octal"),
        ("template: no", 'template: expected text, found no, which YAML reads as a boolean: quote it, "no" (line 5)'),
        (
            "backbone: {revision: 12e4567}",
            'expected text, found 12e4567, which YAML reads as a number: quote it, "12e4567"',
        ),
        (
            "data: {folder: 2024}",
            'data.folder: expected text, found 2024, which YAML reads as a number: quote it, "2024"',
        ),
        (
            "lora: {targets: [on]}",
            'lora.targets.0: expected text, found on, which YAML reads as a boolean: quote it, "on"',
        ),
        ("lora: {targets: [a, ~]}", 'lora.targets.1: expected text, found ~, which YAML reads as null: quote it, "~"'),
        (
            "stages: {joint: {lr: .inf}}",
            "stages.joint.lr: Input should be less than or equal to 10, found .inf (line 5)",
        ),
        ("stages: {joint: {lr: 1.0e+309}}", "found 1.0e+309 (line 5)"),
        ("stages: {joint: {lr: .nan}}", "found .nan (line 5)"),
        ("stages: {joint: {epochs: 1e300}}", "found 1e300 (line 5)"),
        ("stages: {joint: {batch_size: 99999999999999999999}}", "found 99999999999999999999 (line 5)"),
        ("sample: {rows: 1e13}", "sample.rows: Input should be less than or equal to 10000000, found 1e13 (line 5)"),
        ("lora: {Dropout: 0}", "lora.Dropout: unknown key, did you mean dropout? (line 5)"),
        ("SEED: 3", "SEED: unknown key, did you mean seed? (line 5)"),
    ],
)
def test_value_of_another_type_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in errors_of(tmp_path, HEAD + text)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "[no, yes, maybe]",
            'labels.0: expected text, found no, which YAML reads as a boolean: quote it, "no" (line 4)',
        ),
        ("[0, 1, 2]", 'labels.2: expected text, found 2, which YAML reads as a number: quote it, "2" (line 4)'),
        ("[1.0, 2.0]", 'found 1.0, which YAML reads as a number: quote it, "1.0"'),
        ("[a, null]", 'found null, which YAML reads as null: quote it, "null"'),
        ("[2024-01-01, b]", "line 4: 2024-01-01 is a date in YAML: quote it"),
        ("[a, b]\n    label_map: {0: a}", "line 5: the key 0, which YAML reads as a number: quote it"),
        ("[a, b]\n    label_map: {n: a, y: no}", "label_map.y: expected text, found no, which YAML reads as a boolean"),
        ("[a, b]\n    only: {lang: [no]}", "only.lang.0: expected text, found no, which YAML reads as a boolean"),
    ],
)
def test_label_that_is_no_text_says_to_quote_it(tmp_path: Path, labels: str, message: str) -> None:
    assert message in errors_of(tmp_path, f"domains:\n  news:\n    file: plain.csv\n    labels: {labels}\n")


def test_list_of_domains_says_to_quote_a_name(tmp_path: Path) -> None:
    error = errors_of(tmp_path, "domains:\n  - news\n  - no\n")
    assert 'expected text, found no, which YAML reads as a boolean: quote it, "no" (line 3)' in error


def test_error_in_the_file_of_a_domain_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "domains").mkdir()
    (tmp_path / "domains" / "mine.yaml").write_text("# mine\nlabels: [no, yes]\nmax_train_rows: on\n")
    error = errors_of(tmp_path, "domains: [mine]")
    assert "domains.mine.labels.0: expected text, found no" in error
    assert f"(line 2 of {tmp_path / 'domains' / 'mine.yaml'})" in error
    assert "domains.mine.max_train_rows: expected a number, found on, which YAML reads as a boolean (line 3 of" in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=on", "seed: expected a number, found on, which YAML reads as a boolean (--set seed=on)"),
        ("seed=010", "--set seed=010; found 010 is octal"),
        ("template=no", 'found no, which YAML reads as a boolean: quote it, "no" (--set template=no)'),
        ("stages.joint.lr=.inf", "found .inf (--set stages.joint.lr=.inf)"),
        ("seed=!!int ''", "found the tag !!int"),
        ("domains.news.labels=[a, 1]", 'labels.1: expected text, found 1, which YAML reads as a number: quote it, "1"'),
    ],
)
def test_override_of_another_type_is_refused_by_its_name(tmp_path: Path, override: str, message: str) -> None:
    assert message in errors_of(tmp_path, HEAD, override)


def test_override_of_the_backbone_of_a_model_refuses_booleans() -> None:
    with pytest.raises(ConfigFault, match=r"backbone\.windows: expected a number, found on"):
        override_backbone(BackboneSettings(), ["backbone.windows=on"])


def test_service_settings_refuse_booleans_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text("host: 127.0.0.1\nmax_texts: on\ntimeout_s: .inf\n")
    with pytest.raises(Fault) as caught:
        read_settings(tmp_path / "service.yaml")
    assert "max_texts: expected a number, found on, which YAML reads as a boolean (line 2)" in str(caught.value)
    assert "found .inf (line 3)" in str(caught.value)


@pytest.fixture
def sweep_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("moe.runs.preflight._backbone_errors", lambda run: [])
    (tmp_path / "plain.csv").write_text("text,label\na,up\n")
    (tmp_path / "run.yaml").write_text(f"data: {{folder: {tmp_path}}}\n{HEAD}")
    return tmp_path


def test_sweep_refuses_booleans_and_octals_with_the_line(sweep_folder: Path) -> None:
    path = sweep_folder / "sweep.yaml"
    path.write_text("run: run.yaml\nover:\n  seed_: [1]\n  lora.r: [4, on]\n")
    with pytest.raises(ConfigFault) as caught:
        check_sweep(path)
    assert "lora.r: expected a number, found true, which YAML reads as a boolean (line 4)" in str(caught.value)
    path.write_text("run: run.yaml\nseeds: [1, yes]\nover: {lora.r: [4]}\n")
    with pytest.raises(ConfigFault, match=r"seeds\.1: expected a number, found yes, .* \(line 2\)"):
        read_plan(path)
    path.write_text("run: run.yaml\nover:\n  lora.r: [010]\n")
    with pytest.raises(Fault, match="line 3: 010 is octal"):
        read_plan(path)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("lora.r=010", "--over lora.r=010; found 010 is octal"),
        ("seed=1,on", r"seeds\.1: expected a number, found True"),
    ],
)
def test_values_of_over_are_refused_by_name(sweep_folder: Path, over: str, message: str) -> None:
    with pytest.raises(Fault, match=message):
        read_plan(sweep_folder / "run.yaml", (), [over])


def test_numbers_with_exponents_are_read_everywhere(sweep_folder: Path) -> None:
    path = sweep_folder / "sweep.yaml"
    path.write_text("run: run.yaml\nover: {stages.joint.lr: [1e-4, 1.5e-3]}\n")
    assert read_plan(path).settings.over == {"stages.joint.lr": [1e-4, 1.5e-3]}
    run = load_run(sweep_folder / "run.yaml", ["stages.joint.lr=2e-5", "stages.joint.steps=1_000"])
    joint: Any = run.stages.joint
    assert math.isclose(joint.lr, 2e-5)
    assert joint.steps == 1000
