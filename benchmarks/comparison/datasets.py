"""The images of a comparison."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from trainers.assemble import create_dataset
from trainers.data.batch import SegmentationDataset
from trainers.data.check import check_before_training
from trainers.foundation.errors import user_errors
from trainers.options.data_config import DataConfig


@cache
def usable_dataset(config: DataConfig, split: str, folder: Path) -> SegmentationDataset:
    """The samples of a split that the trainings use, found once a command.

    Files that an earlier command on the same folder has found good are not read again.

    Args:
        config: of the data.
        split: name of the split.
        folder: of the comparison.

    Raises:
        UserError: The data cannot be read, or some are bad and are not to be skipped.
    """
    with user_errors():
        dataset = create_dataset(config, split)
        learned = [name for name in dataset.class_names if name not in config.unseen_names]
        return check_before_training(
            dataset,
            split=split,
            folder=folder,
            on_error=config.on_error,
            num_workers=config.num_workers,
            learned=learned if split == config.train_split else (),
        )
