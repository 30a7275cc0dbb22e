"""The field's datasets, each in its usual layout, told by a table of where its files lie and what its ids mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mtaclip_plugin import vocabulary
from trainers.data.batch import IGNORE_INDEX
from trainers.data.labels import UNKNOWN, LabelTable
from trainers.data.orientation import settle_orientations
from trainers.data.pairs import Pair, PairDataset
from trainers.data.reader import PICTURES, ImageReader

# The labelIds of the 19 classes of Cityscapes, in the order of their trainIds; the others up to 33 are void.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# COCO's things have the ids 0 to 90, but no thing ever had these; its stuff has 91 to 181.
_COCO_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)


@dataclass(frozen=True)
class Encoding:
    """One way in which a dataset's masks are written.

    Attributes:
        masks: where the mask of an image may lie, the first that exists counts; ``{split}`` and ``{name}`` are put in.
        table: what its ids mean.
    """

    masks: tuple[str, ...]
    table: LabelTable


@dataclass(frozen=True)
class Layout:
    """Where the files of a dataset lie, below a folder that is the root itself or one of ``folders`` in it.

    Attributes:
        title: what the dataset is called.
        vocabulary: the class names, see `mtaclip_plugin.vocabulary`.
        folders: what the dataset's own folder is usually called.
        splits: the names of the splits, and what the files call them.
        images: where an image lies; ``{split}`` and ``{name}`` are put in, and a name may be a path.
        encodings: the ways in which its masks may be written; the first that any image has counts for all.
        names: file of the names in a split, one a line; ``None``: all images that are there.
    """

    title: str
    vocabulary: str
    folders: tuple[str, ...]
    splits: Mapping[str, str]
    images: str
    encodings: tuple[Encoding, ...]
    names: str | None = None

    def image(self, split: str, name: str) -> str:
        """Where the image ``name`` of a split lies, below the dataset's folder."""
        return self.images.format(split=split, name=name)


def _own_names(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _ids(first: int, count: int, *void: int) -> LabelTable:
    """Ids from ``first`` on for ``count`` classes, and ``void`` ones."""
    classes = {first + class_: class_ for class_ in range(count)} | dict.fromkeys(void, IGNORE_INDEX)
    return LabelTable.of(
        classes, expected=f"the masks of this dataset have {min(classes)} to {max(classes)}, and 255 for void"
    )


def _cityscapes_label_ids() -> LabelTable:
    classes = dict.fromkeys(range(34), IGNORE_INDEX) | {id_: class_ for class_, id_ in enumerate(_CITYSCAPES_IDS)}
    return LabelTable.of(classes, expected="the labelIds of Cityscapes are 0 to 33")


def _coco_stuff_ids() -> LabelTable:
    used = [id_ for id_ in range(182) if id_ not in _COCO_GAPS]
    classes = dict.fromkeys(_COCO_GAPS, IGNORE_INDEX) | {id_: class_ for class_, id_ in enumerate(used)}
    return LabelTable.of(classes, expected="the masks of COCO-Stuff have 0 to 181, and 255 for void")


def _ade20k_ids() -> LabelTable:
    """Of masks as they are published; a copy from which the void was taken away already would be read one class off."""
    classes = {0: IGNORE_INDEX, **{id_: id_ - 1 for id_ in range(1, 151)}, IGNORE_INDEX: UNKNOWN}
    expected = (
        "the masks of ADE20K have 1 to 150, and 0 for void; if these are 0 to 149, and 255 for void, add 1 to each, or "
        "read them as --data.dataset folder"
    )
    return LabelTable.of(classes, expected=expected)


LAYOUTS: Final[Mapping[str, Layout]] = {
    "ade20k": Layout(
        title="ADE20K",
        vocabulary="ade20k",
        folders=("ADEChallengeData2016", "ade/ADEChallengeData2016"),
        splits={"train": "training", "val": "validation"},
        images="images/{split}/{name}.jpg",
        encodings=(Encoding(("annotations/{split}/{name}.png",), _ade20k_ids()),),
    ),
    "cityscapes": Layout(
        title="Cityscapes",
        vocabulary="cityscapes",
        folders=("cityscapes",),
        splits=_own_names("train", "val", "test"),
        images="leftImg8bit/{split}/{name}_leftImg8bit.png",
        encodings=(
            Encoding(("gtFine/{split}/{name}_gtFine_labelIds.png",), _cityscapes_label_ids()),
            Encoding(("gtFine/{split}/{name}_gtFine_labelTrainIds.png",), _ids(0, 19)),
        ),
    ),
    "voc2012": Layout(
        title="Pascal VOC 2012",
        vocabulary="voc",
        folders=("VOC2012", "VOCdevkit/VOC2012"),
        splits=_own_names("train", "val", "trainval", "trainaug"),
        images="JPEGImages/{name}.jpg",
        # Where an image has both, VOC's own mask is finer than the one of SBD.
        encodings=(Encoding(("SegmentationClass/{name}.png", "SegmentationClassAug/{name}.png"), _ids(0, 21)),),
        names="ImageSets/Segmentation/{split}.txt",
    ),
    "pascal_context": Layout(
        title="Pascal Context",
        vocabulary="pascal_context",
        folders=("VOC2010", "VOCdevkit/VOC2010"),
        splits=_own_names("train", "val"),
        images="JPEGImages/{name}.jpg",
        encodings=(Encoding(("SegmentationClassContext/{name}.png",), _ids(1, 59, 0)),),
        names="ImageSets/SegmentationContext/{split}.txt",
    ),
    "coco_stuff": Layout(
        title="COCO-Stuff",
        vocabulary="coco_stuff",
        folders=("coco_stuff164k",),
        splits={"train": "train2017", "val": "val2017"},
        images="images/{split}/{name}.jpg",
        encodings=(
            Encoding(("annotations/{split}/{name}_labelTrainIds.png",), _ids(0, 171)),
            Encoding(("annotations/{split}/{name}.png", "stuffthingmaps/{split}/{name}.png"), _coco_stuff_ids()),
        ),
    ),
    "camvid": Layout(
        title="CamVid",
        vocabulary="camvid",
        folders=("CamVid",),
        splits=_own_names("train", "val", "test"),
        images="{split}/{name}.png",
        encodings=(Encoding(("{split}annot/{name}.png",), _ids(0, 11, 11)),),
    ),
}


def published_dataset(dataset: str, root: str | Path, split: str, *, reader: ImageReader = PICTURES) -> PairDataset:
    """One split of a dataset of the field.

    Args:
        dataset: a key of ``LAYOUTS``.
        root: the folder of the dataset, or the one that it lies in.
        split: "train", "val" or what else it has.
        reader: reads the images.

    Raises:
        FileNotFoundError: ``root`` does not hold the dataset, or the list of the split or all masks are missing.
        ValueError: the dataset has no such split, or the split is empty.
    """
    layout = LAYOUTS[dataset]
    if split not in layout.splits:
        raise ValueError(f'{layout.title} has no split "{split}"; take {" or ".join(layout.splits)}.')
    split = layout.splits[split]
    folder = _find_folder(layout, Path(root), split)
    names = _find_names(layout, folder, split)
    encoding = next(
        (each for each in layout.encodings if any(_find_mask(each, folder, split, name).is_file() for name in names)),
        layout.encodings[0],
    )
    pairs = [
        Pair(Path(name).name, folder / layout.image(split, name), _find_mask(encoding, folder, split, name))
        for name in names
    ]
    pairs, unclear = settle_orientations(pairs, max_pixels=reader.max_pixels)
    class_names = vocabulary(layout.vocabulary)
    return PairDataset(pairs, class_names=class_names, table=encoding.table, reader=reader, remarks=unclear)


def _find_folder(layout: Layout, root: Path, split: str) -> Path:
    candidates = [root, *(root / folder for folder in layout.folders)]
    images = [(folder / layout.image(split, "")).parent for folder in candidates]
    found = next((folder for folder, inside in zip(candidates, images, strict=True) if inside.is_dir()), None)
    if found is None:
        raise FileNotFoundError(
            f"{layout.title} is not in {root}: expected its images in the folder {images[0]}, or in {images[1]}; set "
            "--data.root to where it lies."
        )
    return found


def _find_names(layout: Layout, folder: Path, split: str) -> list[str]:
    """The names of a split's images, from its list, or else from the images that are there."""
    if layout.names is None:
        before, _, suffix = layout.images.partition("{name}")
        images = folder / before.format(split=split)
        files = (file.relative_to(images).as_posix() for file in images.rglob(f"*{suffix}"))
        names = sorted(file.removesuffix(suffix) for file in files)
        if not names:
            raise ValueError(f"{images} holds no image of {layout.title}: expected files *{suffix}.")
        return names
    path = folder / layout.names.format(split=split)
    if not path.is_file():
        masks = " or ".join(str(folder / mask.format(split=split, name="NAME")) for mask in layout.encodings[0].masks)
        raise FileNotFoundError(
            f"{layout.title} has no list of the split {split}: expected one image name a line in {path}, and their "
            f"masks at {masks}."
        )
    # Some lists of VOC give the paths of image and mask instead of the name.
    names = [Path(line.split()[0]).stem for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path} is empty: expected one image name a line.")
    return names


def _find_mask(encoding: Encoding, folder: Path, split: str, name: str) -> Path:
    masks = [folder / mask.format(split=split, name=name) for mask in encoding.masks]
    return next((mask for mask in masks if mask.is_file()), masks[0])
