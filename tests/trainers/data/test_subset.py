from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import pytest

from tests.trainers.tiny_runs import write_folder
from trainers.assemble import create_dataset
from trainers.foundation.errors import UserError
from trainers.options.data_config import DataConfig


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    write_folder(tmp_path, labels=(0, 1))
    for part in ("images", "annotations"):
        for index in range(3, 12):
            copyfile(tmp_path / part / "train" / "0.png", tmp_path / part / "train" / f"{index}.png")
    return DataConfig(dataset="folder", root=str(tmp_path))


def names(config: DataConfig, split: str = "train") -> list[str]:
    dataset = create_dataset(config, split)
    return [dataset[index].name for index in range(len(dataset))]


def test_some_images_of_the_training_split_in_their_order(config: DataConfig) -> None:
    everything = names(config)
    some = names(replace(config, train_images=5))
    assert len(some) == 5 and some == [name for name in everything if name in some]
    assert names(replace(config, train_images=12)) == everything
    assert names(replace(config, train_images=5), "val") == names(config, "val")


def test_fewer_images_are_among_more_and_another_seed_draws_others(config: DataConfig) -> None:
    few, more = (set(names(replace(config, train_images=count))) for count in (3, 7))
    assert few < more
    drawn = {tuple(names(replace(config, train_images=3, train_images_seed=seed))) for seed in range(8)}
    assert len(drawn) > 4


def test_numbers_that_cannot_be_drawn_are_refused(config: DataConfig) -> None:
    with pytest.raises(ValueError, match=r"^--data.train_images 13 is more than the 12 images that there are\.$"):
        names(replace(config, train_images=13))
    with pytest.raises(UserError, match=r"--data\.train_images must be at least 1"):
        replace(config, train_images=0)
    with pytest.raises(UserError, match=r"of kinds and shapes there are --data\.train_length"):
        DataConfig(dataset="shapes", train_images=5)
