from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trainers.tiny_runs import write_folder
from trainers.assemble import create_dataset
from trainers.data.batch import IGNORE_INDEX, Sample, SegmentationDataset
from trainers.data.check import CHECKED_FILE, check_before_training
from trainers.data.class_selection import names_without, select_classes
from trainers.options.data_config import DataConfig

NAMES = ["sky", "road", "car", "tree"]


class Rows(SegmentationDataset):
    """One label map with a row for each class, and a last one that is ignored."""

    def __init__(self) -> None:
        self.class_names = NAMES

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        label = torch.tensor([0, 1, 2, 3, IGNORE_INDEX])[:, None].expand(5, 6)
        return Sample(image=torch.zeros(3, 5, 6, dtype=torch.uint8), label=label, name="rows")


def test_selected_classes_count_from_0_and_all_others_are_ignored() -> None:
    selection = select_classes(Rows(), ["car", "sky"])
    assert selection.class_names == ["car", "sky"] and len(selection) == 1
    sample = selection[0]
    assert sample.label[:, 0].tolist() == [1, IGNORE_INDEX, 0, IGNORE_INDEX, IGNORE_INDEX]
    assert sample.label.shape == (5, 6) and sample.name == "rows"


def test_all_classes_are_the_dataset_itself() -> None:
    dataset = Rows()
    assert select_classes(dataset, NAMES) is dataset


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (["cat"], r"--data.unseen has 'cat', which is no class of the dataset; it has sky, road, car, tree\.$"),
        (["car", "car"], r"--data.unseen has 'car' twice; name each class once\.$"),
        (NAMES, r"--data.unseen has all 4 classes of the dataset; leave some to train on\.$"),
        (NAMES[1:], r"--data.unseen leaves 'sky' alone, with nothing to be told from; leave two classes or more\.$"),
    ],
)
def test_what_cannot_be_left_out(left_out: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        names_without(NAMES, left_out, option="--data.unseen")


def test_of_many_classes_the_nearest_is_named() -> None:
    names = [f"class {number}" for number in range(30)]
    with pytest.raises(ValueError, match=r"'klass 17', which .*; the nearest of its 30 classes is 'class 17'\.$"):
        names_without(names, ["klass 17"], option="--data.unseen")


def test_a_dataset_ignores_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", labels=[0, 1])
    (tmp_path / "data" / "classes.txt").write_text("background\nsheep\ncow\n")
    config = DataConfig(dataset="folder", root=str(tmp_path / "data"), ignore_classes=("background",))
    dataset = create_dataset(config, "train")
    assert dataset.class_names == ["sheep", "cow"]
    assert dataset[0].label[0, [0, 20]].tolist() == [IGNORE_INDEX, 0]
    # The check looks at the files behind it all the same, and leaves out what cannot be used.
    (tmp_path / "data" / "annotations" / "train" / "1.png").write_text("no picture")
    usable = check_before_training(dataset, split="train", folder=tmp_path, on_error="skip", num_workers=0)
    assert (len(dataset), len(usable)) == (3, 2) and usable.class_names == ["sheep", "cow"]
    assert (tmp_path / CHECKED_FILE).exists()
    with pytest.raises(ValueError, match=r"--data.ignore_classes has 'dog', which is no class of the dataset"):
        create_dataset(DataConfig(dataset="folder", root=config.root, ignore_classes=("dog",)), "train")
