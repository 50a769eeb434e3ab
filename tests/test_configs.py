"""Claims about configs: the shipped ones are without fault, and faults are told well."""

import re
from pathlib import Path

import pytest

from experts.errors import Fault
from moe.config.preflight import check_config
from moe.config.run import ConfigFault, DomainSettings, RunSettings, find_config, load_run
from moe.config.yaml import read_yaml
from moe.sweep.grid import OWN_KEYS, Trial, read_plan

CONFIGS = Path(__file__).parent.parent / "configs"
DOMAINS = sorted((CONFIGS / "domains").glob("*.yaml"))
SWEEPS = sorted(path for path in CONFIGS.rglob("*.yaml") if set(OWN_KEYS) & read_yaml(path).keys())
LAUNCHES = sorted((CONFIGS / "accelerate").glob("*.yaml"))
RUNS = sorted(set(CONFIGS.rglob("*.yaml")) - set(DOMAINS) - set(SWEEPS) - set(LAUNCHES))
PAPER = CONFIGS / "finsa_moe" / "glm_z1_9b.yaml"


def relative(path: Path) -> str:
    """A config's name below `configs/`."""
    return path.relative_to(CONFIGS).as_posix()


def written(folder: Path, text: str) -> Path:
    """A config with this text."""
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(path: Path, *sets: str) -> tuple[str, ...]:
    """What is told of a config with faults."""
    with pytest.raises(ConfigFault) as caught:
        load_run(path, sets)
    return caught.value.faults


@pytest.mark.parametrize("path", RUNS, ids=relative)
def test_every_shipped_run_is_without_fault(path: Path) -> None:
    assert load_run(path).domains


@pytest.mark.parametrize("path", LAUNCHES, ids=relative)
def test_accelerate_reads_every_shipped_launch_and_starts_as_many_processes_as_it_is_named_for(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    launch = load_config_from_file(str(path))
    assert launch.num_processes == int(path.stem.removeprefix("gpus_"))
    assert launch.distributed_type == ("MULTI_GPU" if launch.num_processes > 1 else "NO")
    assert f"--config_file configs/accelerate/{path.name} --no_python moe" in path.read_text(encoding="utf-8")


@pytest.fixture
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that seems to hold every file, and every backbone within reach: what is not shipped is not judged."""
    monkeypatch.setattr("moe.config.preflight._backbone_errors", lambda run: [])
    for name in ("fiqa_sa", "news", "forum"):
        (tmp_path / f"{name}.csv").touch()
    return tmp_path


def points_of(path: Path, data: Path) -> list[Trial]:
    plan = read_plan(path, (f"data.folder={data}",))
    return plan.points(plan.corners() if plan.settings.search else plan.grid())


@pytest.mark.parametrize("path", SWEEPS, ids=relative)
def test_every_point_of_every_shipped_sweep_is_without_fault(path: Path, anywhere: Path) -> None:
    assert len(points_of(path, anywhere)) > 1


def test_the_dao_papers_sweeps_are_the_papers(anywhere: Path) -> None:
    ranks, constants = (points_of(CONFIGS / "dao" / f"sweep_{name}.yaml", anywhere) for name in ("ranks", "constants"))
    runs = [point.run for point in ranks]
    assert [(run.lora.r, run.lora.alpha) for run in runs] == [(r, r) for r in (8, 16, 32, 64, 128, 256, 384, 512)]
    losses = [point.run.losses for point in constants]
    assert [one.constants["classes"] for one in losses if one.inner == "constant"] == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    sums = {one.constants["classes"] + one.constants["polarity"] for one in losses if one.inner == "constant"}
    assert sums == {1.0}
    assert losses[-1].inner == "dao"


@pytest.mark.parametrize("path", DOMAINS, ids=relative)
def test_every_shipped_domain_is_without_fault(path: Path) -> None:
    assert DomainSettings.model_validate(read_yaml(path)).labels


@pytest.mark.parametrize("path", [*RUNS, *SWEEPS, *DOMAINS], ids=relative)
def test_the_first_line_is_the_command_and_the_next_what_it_needs(path: Path) -> None:
    first, *others = path.read_text(encoding="utf-8").splitlines()
    assert re.match(r"# (moe|make) [a-z]", first)
    header = " ".join(line for line in others if line.startswith("#"))
    assert "Needs" in header


@pytest.mark.parametrize("path", [*RUNS, *SWEEPS, *DOMAINS], ids=relative)
def test_the_command_in_the_header_names_its_own_config(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    configs, domains = (re.findall(rf"{flag} (\S+)", first) for flag in ("(?:--config|moe sweep)", "--domain"))
    assert all(one == f"configs/{relative(path)}" for one in configs)
    assert set(domains) <= {path.stem, *read_yaml(path).get("domains", ())}


def test_a_resolved_config_written_out_is_the_same_run(tmp_path: Path) -> None:
    run = load_run(CONFIGS / "demo.yaml")
    assert load_run(written(tmp_path, run.as_yaml())) == run


def test_bare_commands_take_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(None).name == "demo.yaml"
    assert load_run().sample is not None


def test_a_config_file_that_is_not_there_is_guessed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
def test_an_unknown_key_is_guessed(wrong: str, meant: str, tmp_path: Path) -> None:
    faults = faults_of(written(tmp_path, f"domains: [news]\n{wrong}"))
    assert any(f"did you mean {meant}?" in fault for fault in faults)


def test_an_unknown_domain_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="Did you mean forum"):
        load_run(written(tmp_path, "domains: [news, forun]"))


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = "domains: [news]\nseed: many\nlora: {r: 0, dropout: 2}\nbackbone: {trunk_deph: 2}\ngate: {kind: mellow}\n"
    faults = faults_of(written(tmp_path, text))
    for key in ("seed", "lora.r", "lora.dropout", "backbone.trunk_deph", "gate.kind"):
        assert any(fault.startswith(f"{key}: ") for fault in faults), key


def test_disagreements_between_parts_are_told_at_once(tmp_path: Path) -> None:
    text = "template: 'news {text}'\ngate: {top_k: 3, unit: token}\ndomains: {news: {labels: []}, forum: }\n"
    assert len(faults_of(written(tmp_path, text))) == 4


def test_check_tells_missing_files_and_an_impossible_trunk_together(tmp_path: Path) -> None:
    text = "domains: {news: {file: nowhere.csv}, forum: }\nbackbone: {trunk_depth: 6}\n"
    with pytest.raises(ConfigFault) as caught:
        check_config(written(tmp_path, text))
    told = " ".join(caught.value.faults)
    assert all(word in told for word in ("nowhere.csv", "domains.forum", "trunk_depth is 6"))


def test_check_finds_no_fault_in_the_demo() -> None:
    assert "no fault" in check_config(CONFIGS / "demo.yaml")


@pytest.mark.parametrize(
    ("one", "value"),
    [("1e-4", 1e-4), ("3.0e-4", 3e-4), ("2", 2.0), ("0.5", 0.5)],
)
def test_set_lays_a_number_over_the_config(one: str, value: float) -> None:
    assert load_run(CONFIGS / "demo.yaml", [f"stages.joint.lr={one}"]).stages.joint.lr == value


def test_set_leaves_its_neighbours_alone() -> None:
    plain, changed = load_run(CONFIGS / "demo.yaml"), load_run(CONFIGS / "demo.yaml", ["lora.r=4"])
    assert changed.lora == plain.lora.model_copy(update={"r": 4})
    assert changed.stages == plain.stages


def test_set_reaches_into_a_domain_that_is_only_named() -> None:
    run = load_run(CONFIGS / "demo.yaml", ["domains.news.file=mine.csv", "domains.news.split.ratios=[9, 1]"])
    assert run.domains["news"].file == "mine.csv"
    assert run.domains["news"].split.ratios == (9, 1)
    assert run.domains["forum"] == load_run(CONFIGS / "demo.yaml").domains["forum"]


def test_set_gives_a_part_that_the_config_leaves_out() -> None:
    run = load_run(CONFIGS / "demo.yaml", ["shared.r=12"])
    assert run.shared is not None
    assert run.shared.r == 12


@pytest.mark.parametrize("one", ["stages.joint.lr", "=3", "lora.rr=4", "lora.r=many"])
def test_a_set_that_is_none_is_refused(one: str) -> None:
    with pytest.raises(Fault):
        load_run(CONFIGS / "demo.yaml", [one])


def test_a_domain_beside_the_config_comes_before_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "domains").mkdir()
    (tmp_path / "domains" / "news.yaml").write_text("labels: [down, up]\n", encoding="utf-8")
    assert load_run(written(tmp_path, "domains: [news]")).domains["news"].labels == ("down", "up")


def test_the_papers_run_is_the_papers() -> None:
    run: RunSettings = load_run(PAPER)
    assert (run.lora.r, run.lora.alpha, run.lora.dropout) == (16, 16, 0.05)
    assert set(run.lora.targets or ()) == {"q_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert (run.backbone.quantization, run.backbone.max_length) == ("nf4", 512)
    assert [one.split.ratios for one in run.domains.values()] == [(98, 1, 1), (60, 20, 20)]
    assert (run.losses.inner, run.losses.outer) == ("constant", "constant")
    assert (run.losses.constants["domain"], run.losses.constants["balance"]) == (1.5, 0.05)
    expert = run.stages.expert
    assert (expert.epochs, expert.lr, expert.warmup, expert.batch_size) == (3, 3e-4, 500, 16)
    assert run.stages.warmup.steps == 500
    assert (run.data.augment.variants, run.data.augment.synonym_share) == (3, 0.2)


@pytest.mark.parametrize(("chinese", "label"), [("利空", "negative"), ("中性", "neutral"), ("利好", "positive")])
def test_the_papers_run_reads_chinese_labels(chinese: str, label: str) -> None:
    assert {one.label_map[chinese] for one in load_run(PAPER).domains.values()} == {label}


@pytest.mark.parametrize("seed", [13, 21, 42, 87, 123])
def test_the_papers_five_seeds_are_one_setting(seed: int) -> None:
    run = load_run(PAPER, [f"seed={seed}"])
    assert run.seed == seed
    assert run.domains == load_run(PAPER).domains
    assert str(seed) in PAPER.read_text(encoding="utf-8").split("Its five seeds: ")[1].splitlines()[0]
