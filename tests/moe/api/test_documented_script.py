"""Test of the script in docs/api.md, from loading to the Hub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import running_hub

PAGE = Path(__file__).parents[3] / "docs" / "api.md"


@pytest.mark.slow
def test_script_in_the_documentation_runs_from_loading_to_the_hub(tmp_path: Path) -> None:
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    with running_hub() as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "secret"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "['negative', 'positive']"
    assert "(2, 384)" in lines
    assert any(line.startswith("trainable params: ") for line in lines)
    assert lines[-1] == "bert"
    assert "'label': 'up'" in lines[-2]
    assert hub.private["owner/grown"]
    assert {"mixture.json", "experts/macro/adapter_model.safetensors"} <= hub.files["owner/grown"].keys()
