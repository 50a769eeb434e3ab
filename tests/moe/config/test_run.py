"""Tests of configs: the shipped ones are valid, and errors are reported clearly."""

import re
from pathlib import Path

import pytest

from experts.errors import Fault
from experts.yaml_io import read_yaml
from moe.config.files import find_config
from moe.config.messages import ConfigFault
from moe.config.run import DomainSettings, RunSettings, load_run
from moe.runs.preflight import check_config
from moe.sweep.grid import OWN_KEYS, Trial, read_plan

CONFIGS = Path(__file__).parents[3] / "configs"
DOMAINS = sorted((CONFIGS / "domains").glob("*.yaml"))
SWEEPS = sorted(path for path in CONFIGS.rglob("*.yaml") if set(OWN_KEYS) & read_yaml(path).keys())
LAUNCHES = sorted((CONFIGS / "accelerate").glob("*.yaml"))
RUNS = sorted(set(CONFIGS.rglob("*.yaml")) - set(DOMAINS) - set(SWEEPS) - set(LAUNCHES))
PAPER = CONFIGS / "finsa_moe" / "glm_z1_9b.yaml"


def relative(path: Path) -> str:
    """Path of a config relative to `configs/`."""
    return path.relative_to(CONFIGS).as_posix()


def write_config(folder: Path, text: str) -> Path:
    """Write a config with this text."""
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load_errors(path: Path, *sets: str) -> tuple[str, ...]:
    """Errors that loading an invalid config reports."""
    with pytest.raises(ConfigFault) as caught:
        load_run(path, sets)
    return caught.value.faults


@pytest.mark.parametrize("path", RUNS, ids=relative)
def test_every_shipped_run_is_valid(path: Path) -> None:
    assert load_run(path).domains


@pytest.mark.parametrize("path", LAUNCHES, ids=relative)
def test_shipped_accelerate_configs_start_the_number_of_processes_in_their_name(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    launch = load_config_from_file(str(path))
    assert launch.num_processes == int(path.stem.removeprefix("gpus_"))
    assert launch.distributed_type == ("MULTI_GPU" if launch.num_processes > 1 else "NO")
    assert f"--config_file configs/accelerate/{path.name} --no_python moe" in path.read_text(encoding="utf-8")


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with an empty file for each data set that is not shipped; backbones are not checked."""
    monkeypatch.setattr("moe.runs.preflight._backbone_errors", lambda run: [])
    for name in ("fiqa_sa", "news", "forum", "labelled"):
        (tmp_path / f"{name}.csv").touch()
    return tmp_path


def trials_of(path: Path, data: Path) -> list[Trial]:
    plan = read_plan(path, (f"data.folder={data}",))
    return plan.trials(plan.corners() if plan.settings.search else plan.grid())


@pytest.mark.parametrize("path", SWEEPS, ids=relative)
def test_every_trial_of_every_shipped_sweep_is_valid(path: Path, data_folder: Path) -> None:
    assert len(trials_of(path, data_folder)) > 1


def test_dao_sweeps_have_the_values_of_the_paper(data_folder: Path) -> None:
    ranks, constants = (
        trials_of(CONFIGS / "dao" / f"sweep_{name}.yaml", data_folder) for name in ("ranks", "constants")
    )
    runs = [trial.run for trial in ranks]
    assert [(run.lora.r, run.lora.alpha) for run in runs] == [(r, r) for r in (8, 16, 32, 64, 128, 256, 384, 512)]
    losses = [trial.run.losses for trial in constants]
    constants = [loss.constants for loss in losses if loss.inner == "constant"]
    assert [weights["classes"] for weights in constants] == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    assert {weights["classes"] + weights["polarity"] for weights in constants} == {1.0}
    assert losses[-1].inner == "dao"


@pytest.mark.parametrize("path", DOMAINS, ids=relative)
def test_every_shipped_domain_is_valid(path: Path) -> None:
    assert DomainSettings.model_validate(read_yaml(path)).labels


@pytest.mark.parametrize("path", [*RUNS, *SWEEPS, *DOMAINS], ids=relative)
def test_config_header_has_a_command_and_its_requirements(path: Path) -> None:
    first, *others = path.read_text(encoding="utf-8").splitlines()
    assert re.match(r"# (moe|make|python benchmarks/)\s*[a-z]", first)
    header = " ".join(line for line in others if line.startswith("#"))
    assert "Needs" in header


@pytest.mark.parametrize("path", [*RUNS, *SWEEPS, *DOMAINS], ids=relative)
def test_command_in_a_config_header_names_that_config(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    configs, domains = (re.findall(rf"{flag} (\S+)", first) for flag in ("(?:--config|moe sweep)", "--domain"))
    assert all(config == f"configs/{relative(path)}" for config in configs)
    assert set(domains) <= {path.stem, *read_yaml(path).get("domains", ())}


def test_resolved_config_loads_as_the_same_run(tmp_path: Path) -> None:
    run = load_run(CONFIGS / "demo.yaml")
    assert load_run(write_config(tmp_path, run.as_yaml())) == run


def test_default_config_is_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(None).name == "demo.yaml"
    assert load_run().sample is not None


def test_missing_config_file_suggests_a_similar_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Fault, match=re.escape("Did you mean configs/demo.yaml")):
        find_config(Path("configs/dem.yaml"))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("lora: {rank: 8, drop: 0.1}", "dropout"),
        ("stages: {joint: {learning_rate: 1, warm_up: 3}}", "warmup"),
        ("domans: [news]", "domains"),
        ("backbone: {trunk_deph: 2}", "trunk_depth"),
    ],
)
def test_unknown_key_suggests_a_similar_one(wrong: str, meant: str, tmp_path: Path) -> None:
    errors = load_errors(write_config(tmp_path, f"domains: [news]\n{wrong}"))
    assert any(f"did you mean {meant}?" in error for error in errors)


def test_unknown_domain_suggests_a_similar_one(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="Did you mean forum"):
        load_run(write_config(tmp_path, "domains: [news, forun]"))


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    text = "domains: [news]\nseed: many\nlora: {r: 0, dropout: 2}\nbackbone: {trunk_deph: 2}\ngate: {kind: mellow}\n"
    errors = load_errors(write_config(tmp_path, text))
    for key in ("seed", "lora.r", "lora.dropout", "backbone.trunk_deph", "gate.kind"):
        assert any(error.startswith(f"{key}: ") for error in errors), key


def test_conflicts_between_settings_are_reported_at_once(tmp_path: Path) -> None:
    text = "template: 'news {text}'\ngate: {top_k: 3, unit: token}\ndomains: {news: {labels: []}, forum: }\n"
    assert len(load_errors(write_config(tmp_path, text))) == 4


def test_two_experts_of_one_name_are_a_conflict(tmp_path: Path) -> None:
    text = "domains: {news: {labels: [a, b], experts: 2}, news-2: {labels: [a, b]}}\n"
    errors = load_errors(write_config(tmp_path, text))
    assert any("two experts would have the name news-2" in error for error in errors)


def test_check_reports_missing_files_and_an_impossible_trunk_together(tmp_path: Path) -> None:
    text = "domains: {news: {file: nowhere.csv}, forum: }\nbackbone: {trunk_depth: 6}\n"
    with pytest.raises(ConfigFault) as caught:
        check_config(write_config(tmp_path, text))
    errors = " ".join(caught.value.faults)
    assert all(word in errors for word in ("nowhere.csv", "domains.forum", "trunk_depth is 6"))


def test_check_names_the_tasks_with_a_target(tmp_path: Path) -> None:
    text = "domains: {news: {labels: [a, b], columns: {target: entity}, file: rows.csv}}\n"
    (tmp_path / "rows.csv").write_text("text,label,entity\nShell fell,a,Shell\nBP rose,b,BP\n")
    summary = check_config(write_config(tmp_path, text), [f"data.folder={tmp_path}"])
    assert "tasks with a target: news (column entity)" in summary


def test_check_reports_a_trained_expert_that_does_not_exist(tmp_path: Path) -> None:
    text = "domains: [news]\nsample: {rows: 60}\nshared: {init: no/such/folder}\n"
    with pytest.raises(ConfigFault, match=r"shared\.init: Expected ready, the folder of an expert"):
        check_config(write_config(tmp_path, text))


def test_check_accepts_the_demo() -> None:
    assert "valid" in check_config(CONFIGS / "demo.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("3.0e-4", 3e-4), ("2", 2.0), ("0.5", 0.5)],
)
def test_set_overrides_a_number(text: str, value: float) -> None:
    assert load_run(CONFIGS / "demo.yaml", [f"stages.joint.lr={text}"]).stages.joint.lr == value


def test_set_changes_no_other_setting() -> None:
    plain, changed = load_run(CONFIGS / "demo.yaml"), load_run(CONFIGS / "demo.yaml", ["lora.r=4"])
    assert changed.lora == plain.lora.model_copy(update={"r": 4})
    assert changed.stages == plain.stages


def test_set_overrides_a_domain_given_only_by_name() -> None:
    run = load_run(CONFIGS / "demo.yaml", ["domains.news.file=mine.csv", "domains.news.split.ratios=[9, 1]"])
    assert run.domains["news"].file == "mine.csv"
    assert run.domains["news"].split.ratios == (9, 1)
    assert run.domains["forum"] == load_run(CONFIGS / "demo.yaml").domains["forum"]


def test_set_adds_a_section_missing_in_the_config() -> None:
    assert load_run(CONFIGS / "demo.yaml", ["heads.hidden=64"]).heads.hidden == 64


@pytest.mark.parametrize("override", ["stages.joint.lr", "=3", "lora.rr=4", "lora.r=many"])
def test_set_refuses_an_invalid_override(override: str) -> None:
    with pytest.raises(Fault):
        load_run(CONFIGS / "demo.yaml", [override])


def test_domain_file_next_to_the_config_precedes_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "domains").mkdir()
    (tmp_path / "domains" / "news.yaml").write_text("labels: [down, up]\n", encoding="utf-8")
    assert load_run(write_config(tmp_path, "domains: [news]")).domains["news"].labels == ("down", "up")


def test_finsa_moe_run_has_the_settings_of_the_paper() -> None:
    run: RunSettings = load_run(PAPER)
    assert (run.lora.r, run.lora.alpha, run.lora.dropout) == (16, 16, 0.05)
    assert set(run.lora.targets or ()) == {"q_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert (run.backbone.quantization, run.backbone.max_length) == ("nf4", 512)
    assert [domain.split.ratios for domain in run.domains.values()] == [(98, 1, 1), (60, 20, 20)]
    assert (run.losses.inner, run.losses.outer) == ("constant", "constant")
    assert (run.losses.constants["domain"], run.losses.constants["balance"]) == (1.5, 0.05)
    expert = run.stages.expert
    assert (expert.epochs, expert.lr, expert.warmup, expert.batch_size) == (3, 3e-4, 500, 16)
    assert run.stages.warmup.steps == 500
    assert (run.data.augment.variants, run.data.augment.synonym_share) == (3, 0.2)


@pytest.mark.parametrize(("chinese", "label"), [("利空", "negative"), ("中性", "neutral"), ("利好", "positive")])
def test_finsa_moe_run_maps_chinese_labels(chinese: str, label: str) -> None:
    assert {domain.label_map[chinese] for domain in load_run(PAPER).domains.values()} == {label}


@pytest.mark.parametrize("seed", [13, 21, 42, 87, 123])
def test_finsa_moe_run_differs_between_the_five_seeds_only_in_the_seed(seed: int) -> None:
    run = load_run(PAPER, [f"seed={seed}"])
    assert run.seed == seed
    assert run.domains == load_run(PAPER).domains
    assert str(seed) in PAPER.read_text(encoding="utf-8").split("Its five seeds: ")[1].splitlines()[0]


def test_config_that_gives_a_score_alone_drops_the_labels_of_the_domain_s_file(tmp_path: Path) -> None:
    (tmp_path / "domains").mkdir()
    (tmp_path / "domains" / "news.yaml").write_text("labels: [down, up]\nlabel_map: {low: down}\nexperts: 2\n")
    config = tmp_path / "run.yaml"
    config.write_text("domains: {news: {file: news.csv, kind: score}}\n")
    run = load_run(config)
    assert (run.domains["news"].labels, run.domains["news"].label_map, run.domains["news"].experts) == ((), {}, 2)
    with pytest.raises(Fault, match="a task of the kind score has no labels"):
        load_run(config, ["domains.news.labels=[down, up]"])
