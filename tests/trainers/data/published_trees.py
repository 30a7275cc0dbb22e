"""The field's datasets in small: their true folders, file names and encodings, written out one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

FILES = {
    "ade20k": {
        "train": ("images/training/ADE_train_{:08}.jpg", "annotations/training/ADE_train_{:08}.png"),
        "val": ("images/validation/ADE_val_{:08}.jpg", "annotations/validation/ADE_val_{:08}.png"),
    },
    "cityscapes": {
        "train": (
            "leftImg8bit/train/aachen/aachen_{:06}_000019_leftImg8bit.png",
            "gtFine/train/aachen/aachen_{:06}_000019_gtFine_labelIds.png",
        ),
        "val": (
            "leftImg8bit/val/frankfurt/frankfurt_000000_{:06}_leftImg8bit.png",
            "gtFine/val/frankfurt/frankfurt_000000_{:06}_gtFine_labelIds.png",
        ),
    },
    "voc2012": {
        "train": ("JPEGImages/2007_{:06}.jpg", "SegmentationClass/2007_{:06}.png"),
        "val": ("JPEGImages/2008_{:06}.jpg", "SegmentationClass/2008_{:06}.png"),
        "trainaug": ("JPEGImages/2009_{:06}.jpg", "SegmentationClassAug/2009_{:06}.png"),
    },
    "pascal_context": {
        "train": ("JPEGImages/2008_{:06}.jpg", "SegmentationClassContext/2008_{:06}.png"),
        "val": ("JPEGImages/2009_{:06}.jpg", "SegmentationClassContext/2009_{:06}.png"),
    },
    "coco_stuff": {
        "train": ("images/train2017/{:012}.jpg", "annotations/train2017/{:012}_labelTrainIds.png"),
        "val": ("images/val2017/{:012}.jpg", "annotations/val2017/{:012}_labelTrainIds.png"),
    },
    "camvid": {
        "train": ("train/0001TP_{:06}.png", "trainannot/0001TP_{:06}.png"),
        "val": ("val/0016E5_{:06}.png", "valannot/0016E5_{:06}.png"),
        "test": ("test/0001TP_{:06}.png", "testannot/0001TP_{:06}.png"),
    },
}
LISTS = {"voc2012": "ImageSets/Segmentation", "pascal_context": "ImageSets/SegmentationContext"}


def write_split(
    root: Path, dataset: str, split: str, ids: ArrayLike, *, count: int = 1, mask: str | None = None
) -> list[tuple[Path, Path]]:
    """Writes ``count`` noisy images, each with the mask ``ids``, and gives the paths; ``mask`` is another place."""
    image_place, mask_place = FILES[dataset][split]
    array = np.asarray(ids, np.uint8)
    paths = [(root / image_place.format(n), root / (mask or mask_place).format(n)) for n in range(1, count + 1)]
    for image_path, mask_path in paths:
        for path in (image_path, mask_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise(array.shape[::-1], 60).convert("RGB").save(image_path)
        picture = Image.fromarray(array)
        if dataset == "voc2012":
            picture.putpalette([(37 * value) % 256 for value in range(256) for _ in range(3)])
        picture.save(mask_path)
    if dataset in LISTS:
        (root / LISTS[dataset]).mkdir(parents=True, exist_ok=True)
        names = "".join(f"{image_path.stem}\n" for image_path, _ in paths)
        (root / LISTS[dataset] / f"{split}.txt").write_text(names)
    return paths
