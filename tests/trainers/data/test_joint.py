from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainers.joint_sets import NAMES, write_sets
from trainers.assemble import create_dataset, create_sets
from trainers.data.batch import IGNORE_INDEX, Sample, SegmentationDataset, collate
from trainers.data.check import check_before_training
from trainers.data.joint import JointDataset, joint_names
from trainers.data.loaders import create_train_loader
from trainers.data.orders import WeightedOrder
from trainers.options.data_config import DataConfig


class Rows(SegmentationDataset):
    """Label maps with a row for each class; the images say which they are."""

    def __init__(self, class_names: list[str], length: int = 1, value: int = 0) -> None:
        self.class_names = class_names
        self.length = length
        self.value = value

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        label = torch.tensor([*range(len(self.class_names)), IGNORE_INDEX])[:, None].expand(-1, 8)
        image = torch.full((3, *label.shape), self.value + index, dtype=torch.uint8)
        return Sample(image=image, label=label, name=str(index))


def test_classes_of_one_name_are_one_class() -> None:
    street = joint_names(Rows(["Sky", "pedestrian", "Road"]), {"PEDESTRIAN": "Person"}, name="street")
    park = joint_names(Rows(["person", "sky", "dog", "cat"]), {"dog": "animal", "cat": "animal"}, name="park")
    assert street.class_names == ["sky", "person", "road"] and park.class_names == ["person", "sky", "animal"]
    assert park[0].label[:, 0].tolist() == [0, 1, 2, 2, IGNORE_INDEX]
    assert park.sources(["animal", "sky"]) == ["sky", "dog", "cat"]
    joint = JointDataset({"street": street, "park": park})
    assert joint.class_names == ["sky", "person", "road", "animal"] and len(joint) == 2
    assert joint[0].label[:, 0].tolist() == [0, 1, 2, IGNORE_INDEX] and joint[0].name == "street/0"
    assert joint[1].label[:, 0].tolist() == [1, 0, 3, 3, IGNORE_INDEX] and joint[1].name == "park/0"
    known = collate([joint[0], joint[1]]).known
    assert known is not None and known.tolist() == [[True, True, True, False], [True, True, False, True]]


def test_names_may_change_places() -> None:
    both = joint_names(Rows(["left", "right"]), {"left": "right", "right": "left"}, name="a")
    assert both.class_names == ["right", "left"] and both[0].label[:2, 0].tolist() == [0, 1]


def test_a_renamed_class_is_kept_apart() -> None:
    plant = joint_names(Rows(["plant", "sky"]), {"plant": "factory"}, name="town")
    joint = JointDataset({"town": plant, "garden": joint_names(Rows(["sky", "plant"]), {}, name="garden")})
    assert joint.class_names == ["factory", "sky", "plant"]


def test_what_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match=r"^rename of the data set a has 'cat', which is no class .* dog, sky\.$"):
        joint_names(Rows(["dog", "sky"]), {"cat": "dog"}, name="a")
    with pytest.raises(ValueError, match=r"^The data sets a and b have no class in common.* by rename"):
        JointDataset({"a": Rows(["sky"]), "b": Rows(["dog"])})
    with pytest.raises(ValueError, match=r"^The data sets a, b have 299 classes together"):
        JointDataset({"a": Rows([str(i) for i in range(150)]), "b": Rows([str(i) for i in range(149, 299)])})


def test_sets_are_drawn_by_weight_and_each_in_epochs_of_its_own() -> None:
    order = WeightedOrder([4, 9], [0.25, 0.75], seed=5)
    drawn = [order(place) for place in range(4000)]
    first = [index for index in drawn if index < 4]
    second = [index - 4 for index in drawn if index >= 4]
    assert 0.22 < len(first) / len(drawn) < 0.28
    for indices, length in ((first, 4), (second, 9)):
        epochs = [sorted(indices[start : start + length]) for start in range(0, len(indices) - length, length)]
        assert all(epoch == list(range(length)) for epoch in epochs)
    # A place is what it is, wherever a run begins; another seed makes another order.
    again = WeightedOrder([4, 9], [0.25, 0.75], seed=5)
    assert [again(place) for place in (3999, 7, 2000)] == [drawn[place] for place in (3999, 7, 2000)]
    assert [WeightedOrder([4, 9], [0.25, 0.75], seed=6)(place) for place in range(50)] != drawn[:50]


def test_by_default_the_square_root_of_the_size_weighs() -> None:
    joint = JointDataset({"a": Rows(["sky", "sea"], 100), "b": Rows(["sky", "dog"], 2500)})
    order = joint.order(0)
    counts = Counter(order(place) >= 100 for place in range(6000))
    assert counts[True] / 6000 == pytest.approx(5 / 6, abs=0.02)
    assert joint.shares == {"a": pytest.approx(1 / 6), "b": pytest.approx(5 / 6)}
    weighted = JointDataset(joint.sets, [1.0, 1.0]).order(0)
    assert np.mean([weighted(place) >= 100 for place in range(6000)]) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_wherever_a_run_begins_and_however_it_is_shared(workers: int) -> None:
    joint = JointDataset({"a": Rows(["sky", "sea"], 3), "b": Rows(["sky", "dog"], 5, value=100)})
    settings = {"cut_size": (2, 4), "iterations": 6, "seed": 1, "num_workers": workers}
    whole = list(create_train_loader(joint, batch_size=4, **settings))
    later = list(create_train_loader(joint, batch_size=4, start_iteration=4, **settings))
    assert len(later) == 2
    for ours, theirs in zip(later, whole[4:], strict=True):
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.known, theirs.known)
    ranks = [create_train_loader(joint, batch_size=2, rank=rank, world_size=2, **settings) for rank in range(2)]
    for parts, together in zip(zip(*ranks, strict=True), whole, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), together.images)
        assert torch.equal(torch.cat([part.known for part in parts]), together.known)


def test_sets_on_disk_are_checked_each_for_its_own_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = DataConfig(sets=str(write_sets(tmp_path)), root=str(tmp_path))
    joint = create_dataset(config, "train")
    assert joint.class_names == NAMES and len(joint) == 7
    assert {name: each.class_names for name, each in create_sets(config, "val").items()} == {
        "street": ["sky", "car", "person"],
        "park": ["sky", "tree", "person", "dog"],
    }
    (tmp_path / "park" / "annotations" / "train" / "1.png").write_text("no picture")
    options = {"split": "train", "folder": tmp_path, "num_workers": 0, "learned": NAMES}
    with pytest.raises(ValueError, match=r"^1 of the 5 images of the split train of park cannot be used"):
        check_before_training(joint, on_error="stop", **options)
    usable = check_before_training(joint, on_error="skip", **options)
    assert len(usable) == 6 and usable.class_names == NAMES
    (tmp_path / "street" / "classes.txt").write_text("Sky\ncar\npedestrian\nbus\n")
    check_before_training(create_dataset(config, "train"), on_error="skip", **{**options, "learned": [*NAMES, "bus"]})
    assert "The split train of street holds no pixel of the class bus" in capsys.readouterr().err
