"""Settings of a teacher: short form, combinations that are refused, and no heavy imports."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from moe.data.distilled.teacher_settings import TeacherSettings


def test_string_stands_for_a_model() -> None:
    assert TeacherSettings.model_validate("ready") == TeacherSettings(model="ready")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "m", "prompt": "{text} {labels}"}, "prompt: only with `endpoint`"),
        ({"model": "m", "retries": 1, "timeout": 3}, "retries, timeout: only with `endpoint`"),
        ({"model": "m", "endpoint": "http://x/v1", "revision": "main"}, "revision: only without `endpoint`"),
        ({"model": "m", "endpoint": "http://x/v1", "max_length": 64}, "max_length: only without `endpoint`"),
        ({"model": "m", "endpoint": "http://x/v1", "prompt": "{text}"}, "no {labels}"),
        ({"model": "m", "endpoint": "localhost:8000"}, "pattern"),
        ({"model": ""}, "at least 1 character"),
        ({"model": "m", "label": {}}, "Extra inputs"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TeacherSettings.model_validate(settings)


def test_settings_import_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "openai"}
    code = f"import sys, moe.data.distilled.teacher_settings; print(*sys.modules.keys() & {heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
