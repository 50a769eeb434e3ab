"""Claim: every command of the README works as it stands there, in this order, in a folder of one's own."""

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
FENCE = re.compile(r"```bash\n(.*?)```", re.DOTALL)
LEFT_OUT = ("make ", "pip install", "PIP_", "moe --install-completion")


def commands(readme: str) -> list[str]:
    """The shell lines of a README, comments cut, installing and testing left out."""
    lines = [line.split("   #")[0].strip() for block in FENCE.findall(readme) for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(LEFT_OUT) and not line.startswith("#")]


def yaml_blocks(readme: str) -> list[str]:
    """The YAML blocks of a README."""
    return re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)


def python_blocks(readme: str) -> list[str]:
    """The Python blocks of a README that stand on their own: DAO's needs a loop of the reader's, the harness a hub."""
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    return [code for code in blocks if "dao.combine" not in code and "lm_eval" not in code]


def lay_out(place: Path) -> None:
    """The files that the README speaks of as the reader's own."""
    shutil.copytree(ROOT / "configs", place / "configs")
    rows = [row | {"text": f"{row['text']} {i}"} for i, row in enumerate(made_up_rows("forum", 120))]
    write_csv(place / "posts.csv", rows)
    write_csv(place / "posts" / "today.csv", rows)
    write_csv(place / "labelled.csv", rows)
    (place / "headlines.txt").write_text("Profit rose.\nSales fell.\n")
    (place / "filings.jsonl").write_text('{"text": "' + "Revenue rose and costs fell. " * 60 + '"}\n')
    crypto = [{"id": row["id"], "body": row["text"], "stance": row["label"], "score": row["score"]} for row in rows]
    write_csv(place / "data" / "crypto_posts.csv", crypto)
    domain, run, roles = yaml_blocks((ROOT / "README.md").read_text(encoding="utf-8"))[:3]
    (place / "configs" / "domains" / "crypto.yaml").write_text(domain, encoding="utf-8")
    (place / "configs" / "mine.yaml").write_text(run, encoding="utf-8")
    (place / "roles.yaml").write_text(roles, encoding="utf-8")
    lay_out_roles(place)


def lay_out_roles(place: Path) -> None:
    """A random decoder deep enough for the README's trunk, a corpus for each role, and two files of questions."""
    config = AutoConfig.for_model(
        "llama", vocab_size=99, **FAMILIES["llama"] | {"num_hidden_layers": 6, "max_position_embeddings": 512}
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(place / "folder/of/a/decoder")
    tiny_tokenizer().save_pretrained(place / "folder/of/a/decoder")
    write_corpora(place)
    for name, corpus in {"macro": "speeches", "news": "calls", "forum": "filings"}.items():
        (place / f"{name}.txt").rename(place / f"{corpus}.txt")
    words = dict(zip(("negative", "neutral", "positive"), ("dovish", "neutral", "hawkish"), strict=True))
    write_csv(place / "fomc.csv", [row | {"label": words[row["label"]]} for row in made_up_rows("macro", 120)])
    write_csv(place / "fpb.csv", made_up_rows("news", 120))


def test_both_readmes_name_the_same_commands() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
    verbs = [[" ".join(line.split()[:2]) for line in commands(one)] for one in (english, chinese)]
    assert verbs[0] == verbs[1]
    assert any(line.startswith("moe train-router") for line in commands(english))


@pytest.mark.slow
def test_the_readme_s_commands_work_in_order(tmp_path: Path) -> None:
    lay_out(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
    small = " --set sample.rows=600 --set stages.expert.epochs=1 --set stages.warmup.steps=40"
    few = "".join(f" --set stages.{stage}.steps=3" for stage in ("pretrain", "warmup", "joint", "instruct"))
    tiny = small + " --set stages.expert.steps=3 --set stages.warmup.steps=3 --set stages.joint.steps=3"
    for line in commands((ROOT / "README.md").read_text(encoding="utf-8")):
        trains = any(line.startswith(verb) for verb in ("moe train-", "moe merge", "moe run"))
        typed = line + small if trains and "runs/demo/experts" not in line else line
        typed = line + tiny if line.startswith(("moe sweep", "moe ablate")) and "roles" not in line else typed
        if "roles.yaml" in line and line.startswith(("moe pretrain", "moe train-", "moe instruct")):
            typed = line + few
        done = subprocess.run(typed, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{typed}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    answers = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(answers) == 1
    assert (tmp_path / "answers.parquet").is_file()
    for code in python_blocks((ROOT / "README.md").read_text(encoding="utf-8")):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{code}\n{done.stderr[-2000:]}"
