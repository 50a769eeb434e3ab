"""Tests that a library call leaves the process as it was: environment, threads, log levels, verbosity, csv's limit."""

import csv
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging as transformers_logging

from moe import FinMoEModel
from moe.inference.load import Runtime


def process_state() -> dict[str, Any]:
    """Everything that belongs to the process and that a caller may have set."""
    names = ("", "moe", "torch", "transformers", "datasets", "huggingface_hub")
    return {
        "environment": dict(os.environ),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": torch.is_grad_enabled(),
        "random": torch.random.get_rng_state().tolist(),
        "levels": {name: logging.getLogger(name).level for name in names},
        "handlers": {name: list(logging.getLogger(name).handlers) for name in names},
        "transformers": (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()),
        "csv": csv.field_size_limit(),
    }


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_loading_and_predicting_change_nothing_in_the_process(runtime: Runtime, tmp_path: Path) -> None:
    before = process_state()
    model = FinMoEModel.from_pretrained("ready", runtime=runtime)
    assert process_state() == before
    model.predict(["Profit fell less than feared."])
    model.get_routing_weights(["Profit fell less than feared."])
    model.encode(["Profit fell less than feared."])
    assert process_state() == before
