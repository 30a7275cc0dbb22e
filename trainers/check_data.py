"""Reads a dataset once and reports on it: ``python -m trainers.check_data --config FILE [--section.key value ...]``.

It takes the options of `trainers.train`, and reads the splits that these would train and validate on.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from trainers.assemble import create_dataset
from trainers.data.class_selection import on_disk
from trainers.foundation.errors import main_guard, user_errors
from trainers.options.data_config import DataConfig, data_root
from trainers.options.parsing import parse_config
from trainers.report.data_page import SplitReport, check_split, describe, find_faults


def check_data(config: DataConfig) -> tuple[list[SplitReport], list[str]]:
    """The reports of the splits of a configuration, and the names of its classes.

    Raises:
        UserError: A split is not there at all.
    """
    with user_errors():
        splits = dict.fromkeys((config.train_split, config.val_split))
        datasets = {split: create_dataset(config, split, strict=False) for split in splits}
    class_names = datasets[config.train_split].class_names
    seen = [name for name in class_names if name not in config.unseen_names]
    reports = []
    for split, dataset in datasets.items():
        learned = seen if split == config.train_split else ()
        reports.append(check_split(dataset, split, num_workers=config.num_workers, learned=learned))
    return reports, class_names


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line); exits with 1 where something has to be put right."""
    own = ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--all", action="store_true")
    options, rest = own.parse_known_args(arguments)
    purpose = (
        "Reads all images and masks of a training once, and reports on them on one page; the options are the "
        "training's, and --all, which names every file in place of a few of each kind."
    )
    config = parse_config(rest, command="python -m trainers.check_data", purpose=purpose).data
    reports, class_names = check_data(config)
    root = Path() if on_disk(reports[0].dataset) is None else data_root(config)
    print(*describe(reports, class_names, root=root, every=options.all), sep="\n")
    if find_faults(reports):
        sys.exit(1)


if __name__ == "__main__":
    main()
