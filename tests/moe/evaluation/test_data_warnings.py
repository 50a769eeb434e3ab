"""Claims about warnings of a run and a file: every kind appears once, in every command, and clean rows give none."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from command_line import run_command
from conftest import BAD, FLAT, GOOD, LABELS, Make, write_csv

from moe.data.schema import TaskSettings
from moe.evaluation.data_warnings import config_warnings, data_warnings, file_warnings, print_data_warnings
