"""Limits of rows for a quicker run of a benchmark: the options, and the overrides that they stand for."""

import argparse
from pathlib import Path

from moe.config.run import load_run


def add_most_rows(parser: argparse.ArgumentParser) -> None:
    """Add `--most-rows` and `--most-validation`, which `limit_by_option` reads."""
    parser.add_argument("--most-rows", type=int, help="most training rows of a task, for a quick run")
    parser.add_argument(
        "--most-validation", type=int, help="most validation rows of a task; by default half of --most-rows"
    )


def limit_by_option(args: argparse.Namespace) -> None:
    """Put the overrides of the limits before those of `--set`, so that `--set` has the last word."""
    validation = args.most_validation or (args.most_rows and args.most_rows // 2)
    limits = {"max_train_rows": args.most_rows, "max_validation_rows": validation}
    limits = {key: most for key, most in limits.items() if most is not None}
    if limits:
        args.sets = [*limit_rows(args.config, **limits), *args.sets]


def limit_rows(config: Path, **limits: int | None) -> list[str]:
    """Return overrides that limit the rows of every task of a config, by the name of the setting; None is no limit."""
    return [
        f"domains.{name}{f'.tasks.{task}' if domain.tasks else ''}.{key}={'null' if most is None else most}"
        for name, domain in load_run(config).domains.items()
        for task in domain.tasks or (name,)
        for key, most in limits.items()
    ]
