"""Reads data once and reports on them: ``python -m trainers.check_data --config FILE [--section.key value ...]``.

It takes the options of `trainers.train`, and reads the splits that these would train and validate on.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from trainers.assemble import create_dataset, create_set
from trainers.data.class_selection import on_disk
from trainers.data.joint import JointDataset
from trainers.foundation.errors import main_guard, user_errors
from trainers.options.config import Config
from trainers.options.data_config import DataConfig, data_root
from trainers.options.parsing import parse_config
from trainers.report.data_page import SplitReport, check_split, describe, find_faults
from trainers.report.joint_page import describe_joint
from trainers.text.text_bank import load_text_bank


def check_data(config: DataConfig) -> tuple[list[SplitReport], list[str]]:
    """The reports of the splits of a configuration of one data set, and the names of its classes.

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


def print_report(config: DataConfig, *, every: bool) -> bool:
    """Prints the page of one data set; gives whether it can be trained on as it is.

    Args:
        config: Says what it is.
        every: Whether to name every file, and not only a few of each kind.

    Raises:
        UserError: See `check_data`.
    """
    reports, class_names = check_data(config)
    root = Path() if on_disk(reports[0].dataset) is None else data_root(config)
    print(*describe(reports, class_names, root=root, every=every), sep="\n")
    return not find_faults(reports)


def print_joint_report(config: Config, *, every: bool) -> bool:
    """The same of several data sets, and what they have in common.

    Raises:
        UserError: See `check_data`; or they cannot be joined.
    """
    data, good = config.data, True
    for one in data.joint_sets:
        print(f"{one.name}\n{'=' * len(one.name)}")
        good = print_report(data.of(one), every=every) and good
        print()
    with user_errors():
        sets = {one.name: create_set(data, one, data.train_split, strict=False) for one in data.joint_sets}
        class_names = list(dict.fromkeys(name for each in sets.values() for name in each.class_names))
        bank = config.model.text_embeddings
        text = None if bank is None else load_text_bank(Path(bank), class_names)
        print(*describe_joint(sets, class_names, text), sep="\n")
        JointDataset(sets)  # or what is wrong with them together
    return good


def write_names(config: DataConfig, file: Path) -> None:
    """Writes the names of all classes, one a line, as `trainers.text.text_bank` reads them.

    Raises:
        UserError: The data are not there, or the file cannot be written.
    """
    with user_errors():
        names = create_dataset(config, config.train_split).class_names
        file.write_text("\n".join(names) + "\n", encoding="utf-8")


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line); exits with 1 where something has to be put right."""
    own = ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--all", action="store_true")
    own.add_argument("--names", type=Path)
    options, rest = own.parse_known_args(arguments)
    purpose = (
        "Reads all images and masks of a training once, and reports on them on one page; the options are the "
        "training's, and --all, which names every file in place of a few of each kind, and --names FILE, which writes "
        "the names of the classes into a file and reads no image."
    )
    config = parse_config(rest, command="python -m trainers.check_data", purpose=purpose)
    if options.names is not None:
        write_names(config.data, options.names)
        return
    joint = bool(config.data.joint_sets)
    good = print_joint_report(config, every=options.all) if joint else print_report(config.data, every=options.all)
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
