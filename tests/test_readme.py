"""The commands in the README and on the pages of a first session work as shown, in order, in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FAMILIES, made_up_rows, tiny_tokenizer, write_csv
from corpora import write_corpora
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = Path(__file__).parent.parent
SESSION = ("README.md", "docs/quickstart.md", "docs/language_models.md")
FENCE = re.compile(r"```bash\n(.*?)```", re.DOTALL)
SKIPPED = ("make ", "pip install", "PIP_", ". .venv", "moe --install-completion")


def session_pages() -> str:
    """Return the README and the pages of a first session, joined."""
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in SESSION)


def shell_commands(pages: str) -> list[str]:
    """Return the shell commands of pages without comments; commands that install or test are skipped."""
    lines = [re.split(r"\s+#", line)[0].strip() for block in FENCE.findall(pages) for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(SKIPPED) and not line.startswith("#")]


def yaml_blocks(pages: str) -> list[str]:
    """Return the YAML blocks of pages."""
    return re.findall(r"```yaml\n(.*?)```", pages, re.DOTALL)


def python_blocks(pages: str) -> list[str]:
    """Return the Python blocks of pages, except those of the evaluation harness, which needs a hub."""
    blocks = re.findall(r"```python\n(.*?)```", pages, re.DOTALL)
    return [code for code in blocks if "lm_eval" not in code]


def write_inputs(folder: Path) -> None:
    """Write the files that the pages expect of the reader."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    rows = [row | {"text": f"{row['text']} {i}"} for i, row in enumerate(made_up_rows("forum", 120))]
    write_csv(folder / "posts.csv", rows)
    write_csv(folder / "posts" / "today.csv", rows)
    write_csv(folder / "labelled.csv", rows)
    (folder / "headlines.txt").write_text("Profit rose.\nSales fell.\n")
    (folder / "filings.jsonl").write_text('{"text": "' + "Revenue rose and costs fell. " * 60 + '"}\n')
    crypto = [{"id": row["id"], "body": row["text"], "stance": row["label"], "score": row["score"]} for row in rows]
    write_csv(folder / "data" / "crypto_posts.csv", crypto)
    domain, run, roles = yaml_blocks(session_pages())
    (folder / "configs" / "domains" / "crypto.yaml").write_text(domain, encoding="utf-8")
    (folder / "configs" / "mine.yaml").write_text(run, encoding="utf-8")
    (folder / "roles.yaml").write_text(roles, encoding="utf-8")
    write_role_inputs(folder)


def write_role_inputs(folder: Path) -> None:
    """Write a random decoder with enough layers for roles.yaml, a corpus for each role, and two files of questions."""
    config = AutoConfig.for_model(
        "llama", vocab_size=99, **FAMILIES["llama"] | {"num_hidden_layers": 6, "max_position_embeddings": 512}
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "folder/of/a/decoder")
    tiny_tokenizer().save_pretrained(folder / "folder/of/a/decoder")
    write_corpora(folder)
    for name, corpus in {"macro": "speeches", "news": "calls", "forum": "filings"}.items():
        (folder / f"{name}.txt").rename(folder / f"{corpus}.txt")
    words = dict(zip(("negative", "neutral", "positive"), ("dovish", "neutral", "hawkish"), strict=True))
    write_csv(folder / "fomc.csv", [row | {"label": words[row["label"]]} for row in made_up_rows("macro", 120)])
    write_csv(folder / "fpb.csv", made_up_rows("news", 120))


def test_session_shows_every_step_from_the_first_expert_to_a_generated_answer() -> None:
    shown = {line.split()[1] for line in shell_commands(session_pages()) if line.startswith("moe ")}
    assert shown >= {"train-expert", "merge", "train-router", "infer", "evaluate", "pretrain", "instruct", "generate"}


@pytest.mark.slow
def test_session_commands_work_in_order(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
    small = " --set sample.rows=600 --set stages.expert.epochs=1 --set stages.expert.min_steps=1"
    small += " --set stages.shared.steps=10 --set stages.warmup.steps=40"
    few = "".join(f" --set stages.{stage}.steps=3" for stage in ("pretrain", "warmup", "joint", "instruct"))
    tiny = small + " --set stages.expert.steps=3 --set stages.warmup.steps=3 --set stages.joint.steps=3"
    for line in shell_commands(session_pages()):
        trains = any(line.startswith(verb) for verb in ("moe train-", "moe merge", "moe run"))
        typed = line + small if trains and "runs/demo/experts" not in line else line
        typed = line + tiny if line.startswith(("moe sweep", "moe ablate")) and "roles" not in line else typed
        if "roles.yaml" in line and line.startswith(("moe pretrain", "moe train-", "moe instruct")):
            typed = line + few
        process = subprocess.run(typed, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, f"{typed}\n{process.stdout[-2000:]}\n{process.stderr[-2000:]}"
    answers = (tmp_path / "windows.jsonl").read_text().splitlines()
    assert len(answers) == 1
    assert (tmp_path / "answers.parquet").is_file()
    for code in python_blocks(session_pages()):
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, f"{code}\n{process.stderr[-2000:]}"
