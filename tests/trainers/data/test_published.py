from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainers.data.published_trees import FILES, write_split
from trainers.assemble import create_dataset
from trainers.data.published import LAYOUTS, published_dataset
from trainers.options.data_config import DataConfig

V = 255
CITYSCAPES = [  # the trainIds of the labelIds 0 to 33
    [V, V, V, V, V, V, V, 0, 1, V, V, 2, 3, 4, V, V, V],
    [5, V, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, V, V, 16, 17, 18],
]
CASES = {  # ids in a mask, and what they mean
    "ade20k": ([[0, 1, 2], [150, 76, 0]], [[V, 0, 1], [149, 75, V]]),
    "cityscapes": (np.arange(34).reshape(2, 17), CITYSCAPES),
    "voc2012": ([[0, 1, 20], [255, 15, 7]], [[0, 1, 20], [V, 15, 7]]),
    "pascal_context": ([[0, 1, 59], [30, 2, 0]], [[V, 0, 58], [29, 1, V]]),
    "coco_stuff": ([[0, 170, 255], [80, 79, 1]], [[0, 170, V], [80, 79, 1]]),
    "camvid": ([[0, 10, 11], [5, 8, 1]], [[0, 10, V], [5, 8, 1]]),
}
ENDS = {
    "ade20k": (150, "wall", "flag"),
    "cityscapes": (19, "road", "bicycle"),
    "voc2012": (21, "background", "tv monitor"),
    "pascal_context": (59, "aeroplane", "wood"),
    "coco_stuff": (171, "person", "wood"),
    "camvid": (11, "sky", "bicyclist"),
}


def test_every_layout_is_tested_and_an_option() -> None:
    assert set(LAYOUTS) == set(CASES) == set(FILES)
    for dataset in LAYOUTS:
        assert DataConfig(dataset=dataset).dataset == dataset  # type: ignore[arg-type]


@pytest.mark.parametrize("dataset", CASES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_true_layout_is_read(tmp_path: Path, dataset: str, split: str) -> None:
    ids, labels = CASES[dataset]
    other = {"train": "val", "val": "train"}[split]
    write_split(tmp_path, dataset, other, ids)
    paths = write_split(tmp_path, dataset, split, ids, count=2)
    found = create_dataset(DataConfig(dataset=dataset, root=str(tmp_path)), split)  # type: ignore[arg-type]
    count, first, last = ENDS[dataset]
    assert (len(found.class_names), found.class_names[0], found.class_names[-1]) == (count, first, last)
    assert len(found) == 2
    for sample, (image, _) in zip((found[0], found[1]), paths, strict=True):
        assert sample.label.tolist() == np.asarray(labels).tolist()
        assert sample.name == image.stem.removesuffix("_leftImg8bit")
        with Image.open(image) as picture:
            assert sample.image.permute(1, 2, 0).tolist() == np.array(picture).tolist()


@pytest.mark.parametrize("dataset", CASES)
def test_the_root_may_be_the_folder_around(tmp_path: Path, dataset: str) -> None:
    for folder in LAYOUTS[dataset].folders:
        write_split(tmp_path / folder.replace("/", "-") / folder, dataset, "val", CASES[dataset][0])
        assert len(published_dataset(dataset, tmp_path / folder.replace("/", "-"), "val")) == 1


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("ade20k", "images/training"),
        ("cityscapes", "leftImg8bit/train"),
        ("voc2012", "JPEGImages"),
        ("pascal_context", "JPEGImages"),
        ("coco_stuff", "images/train2017"),
        ("camvid", "train"),
    ],
)
def test_a_wrong_root_says_what_was_expected(tmp_path: Path, dataset: str, expected: str) -> None:
    usual = LAYOUTS[dataset].folders[0]
    with pytest.raises(FileNotFoundError) as error:
        published_dataset(dataset, tmp_path, "train")
    assert f"{tmp_path / expected}, or in {tmp_path / usual / expected};" in str(error.value)
    assert "--data.root" in str(error.value)


def test_masks_of_train_ids_are_read_where_cityscapes_has_no_others(tmp_path: Path) -> None:
    place = "gtFine/train/aachen/aachen_{:06}_000019_gtFine_labelTrainIds.png"
    write_split(tmp_path, "cityscapes", "train", [[0, 18, 255]], mask=place)
    assert published_dataset("cityscapes", tmp_path, "train")[0].label.tolist() == [[0, 18, V]]
    write_split(tmp_path, "cityscapes", "train", [[7, 33, 0]])
    assert published_dataset("cityscapes", tmp_path, "train")[0].label.tolist() == [[0, 18, V]]


@pytest.mark.parametrize("place", ["annotations", "stuffthingmaps"])
def test_raw_coco_stuff_skips_the_ids_that_no_thing_has(tmp_path: Path, place: str) -> None:
    # COCO's category ids; the masks hold one less.
    categories = {
        1: "person", 11: "fire hydrant", 13: "stop sign", 27: "backpack", 44: "bottle", 46: "wine glass",
        67: "dining table", 70: "toilet", 73: "laptop", 81: "sink", 88: "teddy bear", 90: "toothbrush",
        92: "banner", 124: "grass", 149: "road", 157: "sky-other", 169: "tree", 182: "wood",
    }  # fmt: skip
    never_used = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]
    ids = np.array([*categories, *never_used, 256])[None] - 1
    write_split(tmp_path, "coco_stuff", "train", ids, mask=place + "/train2017/{:012}.png")
    dataset = published_dataset("coco_stuff", tmp_path, "train")
    labels = dataset[0].label[0].tolist()
    assert [dataset.class_names[label] for label in labels[: len(categories)]] == list(categories.values())
    assert labels[len(categories) :] == [V] * 12


def test_converted_coco_stuff_masks_come_first(tmp_path: Path) -> None:
    write_split(tmp_path, "coco_stuff", "val", [[181, 12]], mask="annotations/val2017/{:012}.png")
    write_split(tmp_path, "coco_stuff", "val", [[170, 11]])
    assert published_dataset("coco_stuff", tmp_path, "val")[0].label.tolist() == [[170, 11]]


def test_the_augmented_split_of_voc_has_the_masks_of_sbd(tmp_path: Path) -> None:
    ids = [[0, 20, 255]]
    [(image, _)] = write_split(tmp_path, "voc2012", "train", ids)
    [(added, _)] = write_split(tmp_path, "voc2012", "trainaug", [[3, 3, 3]])
    names = tmp_path / "ImageSets/Segmentation/trainaug.txt"
    for lines in (
        f"{image.stem}\n{added.stem}\n\n",
        f"/JPEGImages/{image.name} /SegmentationClassAug/x.png\n/JPEGImages/{added.name} /SegmentationClassAug/y.png\n",
    ):
        names.write_text(lines)
        dataset = published_dataset("voc2012", tmp_path, "trainaug")
        assert [dataset[index].label.tolist() for index in (0, 1)] == [[[0, 20, V]], [[3, 3, 3]]]
    names.write_text("\n")
    with pytest.raises(ValueError, match=r"trainaug\.txt is empty"):
        published_dataset("voc2012", tmp_path, "trainaug")
    names.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"list of the split trainaug.*trainaug\.txt.*SegmentationClassAug/NAME"
    ):
        published_dataset("voc2012", tmp_path, "trainaug")


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='ADE20K has no split "test"; take train or val'):
        published_dataset("ade20k", tmp_path, "test")
    (tmp_path / "images/training").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"images/training holds no image of ADE20K: expected files \*\.jpg"):
        published_dataset("ade20k", tmp_path, "train")


@pytest.mark.parametrize("dataset", CASES)
def test_images_without_any_mask_are_refused_at_once(tmp_path: Path, dataset: str) -> None:
    (_, mask), *_ = write_split(tmp_path, dataset, "val", CASES[dataset][0])
    mask.unlink()
    with pytest.raises(FileNotFoundError) as error:
        published_dataset(dataset, tmp_path, "val")
    assert f"expected at {mask}." in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "wrong", "meant"),
    [
        ("ade20k", 151, "1 to 150"),
        ("ade20k", 255, "add 1 to each"),
        ("cityscapes", 34, "0 to 33"),
        ("voc2012", 21, "0 to 20"),
        ("pascal_context", 60, "0 to 59"),
        ("coco_stuff", 171, "0 to 170"),
        ("camvid", 12, "0 to 11"),
    ],
)
def test_ids_that_mean_nothing_are_named(tmp_path: Path, dataset: str, wrong: int, meant: str) -> None:
    [(_, mask)] = write_split(tmp_path, dataset, "train", [[1, wrong]])
    with pytest.raises(ValueError, match="has the ids") as error:
        published_dataset(dataset, tmp_path, "train")[0]
    assert str(mask) in str(error.value) and f"[{wrong}]" in str(error.value) and meant in str(error.value)
