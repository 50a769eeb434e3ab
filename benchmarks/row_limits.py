"""Limits of rows for a quicker run of a benchmark: the option `--most-rows`, and the overrides that it stands for."""

import argparse
from pathlib import Path

from moe.config.run import load_run


def add_most_rows(parser: argparse.ArgumentParser) -> None:
    """Add `--most-rows`, which `limit_by_option` reads."""
    parser.add_argument(
        "--most-rows", type=int, help="most training rows of a task, with half as many for validation, for a quick run"
    )


def limit_by_option(args: argparse.Namespace) -> None:
    """Put the overrides of `--most-rows` before those of `--set`, so that `--set` has the last word."""
    if args.most_rows:
        limits = {"max_train_rows": args.most_rows, "max_validation_rows": args.most_rows // 2}
        args.sets = [*limit_rows(args.config, **limits), *args.sets]


def limit_rows(config: Path, **limits: int | None) -> list[str]:
    """Return overrides that limit the rows of every task of a config, by the name of the setting; None is no limit."""
    return [
        f"domains.{name}{f'.tasks.{task}' if domain.tasks else ''}.{key}={'null' if most is None else most}"
        for name, domain in load_run(config).domains.items()
        for task in domain.tasks or (name,)
        for key, most in limits.items()
    ]
