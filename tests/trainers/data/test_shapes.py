from __future__ import annotations

import pytest
import torch

from trainers.data.batch import IGNORE_INDEX
from trainers.data.shapes import CLASS_NAMES, FIGURES, ShapesDataset


def test_scene_depends_on_seed_split_and_index_alone() -> None:
    dataset = ShapesDataset("train", length=4)
    sample = dataset[2]
    for other in (dataset[2], ShapesDataset("train", length=9)[2]):
        assert torch.equal(sample.image, other.image) and torch.equal(sample.label, other.label)
    for other in (dataset[1], ShapesDataset("val", length=4)[2], ShapesDataset("train", length=4, seed=1)[2]):
        assert not torch.equal(sample.label, other.label)


@pytest.mark.parametrize("size", [32, 100, 128])
def test_samples_are_well_formed(size: int) -> None:
    dataset = ShapesDataset("val", size=size, length=8)
    for sample in dataset:  # ends by itself
        assert sample.image.shape == (3, size, size) and sample.image.dtype == torch.uint8
        assert sample.label.shape == (size, size) and sample.label.dtype == torch.int64
        assert set(sample.label.unique().tolist()) <= {*range(len(CLASS_NAMES)), IGNORE_INDEX}
    assert len(dataset) == 8 and sample.name == "val_00007"


def test_every_class_and_the_ignored_outline_occur() -> None:
    labels = torch.stack([sample.label for sample in ShapesDataset("train", length=60)])
    share = torch.bincount(labels.flatten(), minlength=256) / labels.numel()
    assert (share[1 : len(CLASS_NAMES)] > 0.003).all()
    assert 0.6 < share[0] < 0.85
    assert 0.02 < share[IGNORE_INDEX] < 0.1
    # 2 to 7 figures, of which few are hidden: more than one class in most scenes, never all of them.
    classes = torch.tensor([len(set(label.unique().tolist()) - {0, IGNORE_INDEX}) for label in labels])
    assert classes.max() <= 7 and classes.float().mean() > 2.5


def test_figures_have_their_colour() -> None:
    """Inside a figure the channel of its colour wins, on average over the lights and textures."""
    sums = torch.zeros(len(CLASS_NAMES), 3)
    for sample in ShapesDataset("train", length=60):
        for class_id in set(sample.label.unique().tolist()) - {0, IGNORE_INDEX}:
            sums[class_id] += sample.image[:, sample.label == class_id].float().sum(1)
    strongest = {"red": 0, "green": 1, "blue": 2}
    for class_id, figure in enumerate(FIGURES, start=1):
        red, green, blue = sums[class_id].tolist()
        if figure.color == "yellow":
            assert min(red, green) > 1.5 * blue
        else:
            assert sums[class_id].argmax() == strongest[figure.color]


def test_names_are_words_and_every_figure_has_a_near_miss() -> None:
    assert CLASS_NAMES[:3] == ("background", "red circle", "striped red circle")
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == 12
    for figure in FIGURES:
        differences = [
            (figure.color != other.color) + (figure.form != other.form) + (figure.texture != other.texture)
            for other in FIGURES
        ]
        assert 1 in differences


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'training'"):
        ShapesDataset("training", length=1)
    with pytest.raises(ValueError, match="not 0 scenes of 128 pixels"):
        ShapesDataset("train", length=0)
    with pytest.raises(IndexError, match="no scene 3"):
        ShapesDataset("train", length=3)[3]
