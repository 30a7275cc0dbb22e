"""The command line of a comparison."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainers.foundation.errors import UserError
from trainers.options.config import Config
from trainers.options.parsing import parse_config


def comma_separated(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def integers(text: str) -> tuple[int, ...]:
    """Whole numbers between commas, each once, in rising order."""
    return tuple(sorted({int(part) for part in comma_separated(text)}))


_REPLACED = {"--train.output": "--output", "--train.seed": "--seeds", "--train.resume": "the same command again"}
"""Options of the trainer that a comparison sets itself, and what takes their place."""


def comparison_parser(name: str, description: str) -> ArgumentParser:
    """The options that comparisons have; those of the trainer follow them."""
    parser = ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=f"{description} A run that was cut off goes on. Further options are the trainer's: --config FILE, "
        "--SECTION.OPTION VALUE.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--seeds", type=integers, default=(0, 1, 2), help="Seeds, e.g. 0,1,2.")
    parser.add_argument("--iterations", type=int, help="Steps of each training; default: those of the configuration.")
    parser.add_argument("--jobs", type=int, default=1, help="Trainings at the same time, which share the cores.")
    parser.add_argument("--rounds", type=int, default=5, help="Rounds that seconds are measured in.")
    parser.add_argument("--plan", action="store_true", help="Print what would run, and how long it would take.")
    parser.add_argument("--report", action="store_true", help="Train nothing: write the pages of what there is.")
    parser.add_argument(
        "--output", type=Path, default=Path("runs", name), help="Folder of all that is written, one a dataset."
    )
    return parser


def parse_comparison(parser: ArgumentParser, arguments: Sequence[str] | None) -> tuple[Namespace, Config]:
    """The options of the comparison, and the configuration of its trainings.

    Raises:
        UserError: An option's value is out of its range.
        argparse.ArgumentError: See `trainers.options.parsing.parse_config`.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options, rest = parser.parse_known_args(given)
    options.given = [option for option in given if option not in ("--plan", "--report")]
    if not options.seeds:
        raise UserError("--seeds names no seed; give some, e.g. 0,1,2.")
    for option in (argument.partition("=")[0] for argument in rest):
        if option in _REPLACED:
            raise UserError(f"{option} is set by the comparison; use {_REPLACED[option]}.")
    if options.iterations is not None and options.iterations < 1:
        raise UserError("--iterations must be at least 1.")
    if options.jobs < 1 or options.rounds < 1:
        raise UserError("--jobs and --rounds must be at least 1.")
    config = parse_config(rest, command=parser.prog, purpose="A comparison's trainings.")
    iterations = options.iterations or config.train.iterations
    # Pictures of each validation would be thousands, and only the first runs' are looked at.
    train = replace(config.train, iterations=iterations, overlays=0, resume="auto")
    return options, replace(config, train=train)
