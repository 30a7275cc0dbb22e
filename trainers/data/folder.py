"""Images and label maps in a folder: ``images/``, ``annotations/`` and ``classes.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from trainers.data.batch import IGNORE_INDEX
from trainers.data.classes import COLOR_FILES, NAMES_FILE, find_classes
from trainers.data.labels import LabelTable
from trainers.data.matching import match_files
from trainers.data.orientation import settle_orientations
from trainers.data.pairs import PairDataset
from trainers.data.problems import UnfitFileError, few
from trainers.data.reader import PICTURES, ImageReader


class FolderDataset(PairDataset):
    """One split of a data set in the folder format.

    It holds ``images/{split}/NAME.jpg``, or another format that is read, ``annotations/{split}/NAME.png``, or another
    format that loses nothing, with one class id a pixel, and ``classes.txt`` with one class name a line, in the order
    of the ids. NAME may be a path, the same below both folders. What is left aside is remarked, such as masks without
    an image.

    Masks may be in colours, if ``colors.txt`` names them, ``NAME R G B`` a line, or CVAT's ``labelmap.txt``; that file
    may take the place of ``classes.txt``. Palette masks are read as indices where there is no such file, and otherwise
    by the colours of their palette, see `trainers.data.reading.read_ids`.

    Args:
        root: the folder that holds ``classes.txt``.
        split: name of the folders below ``images`` and ``annotations``.
        ignore_ids: ids that are void in the masks, beside 255.
        reader: reads the images.
        mask_suffix: what follows NAME in the name of a mask, such as "_mask"; see `trainers.data.matching.match_files`.
        strict: whether to refuse a list of classes that leaves doubt, and files that would share a mask or an image.
            Otherwise these are kept as ``faults``, and the likeliest is taken.

    Raises:
        FileNotFoundError: a folder or ``classes.txt`` is missing, or all masks are.
        ValueError: there is no image, or what ``strict`` refuses.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        ignore_ids: Sequence[int] = (),
        reader: ImageReader = PICTURES,
        mask_suffix: str = "",
        strict: bool = True,
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"The data folder {root} does not exist; set --data.root to one that does.")
        images, masks = root / "images", root / "annotations"
        _check_layout(root, split)
        classes = find_classes(root)
        match = partial(match_files, mask_suffix=mask_suffix, image_suffixes=reader.suffixes)
        files = match(images / split, masks / split)
        faults = [*classes.faults, *files.faults]
        if strict and faults:
            raise UnfitFileError(faults[0])
        pairs, unclear = settle_orientations(
            files.pairs, lambda: match(images, masks).pairs, max_pixels=reader.max_pixels
        )
        count = len(classes.names)
        expected = (
            f"{classes.file} names K={count} classes, 0 to {count - 1}; add names, or list ids that are void in "
            "--data.ignore_ids"
        )
        super().__init__(
            pairs,
            class_names=classes.names,
            table=LabelTable.of(
                {id_: id_ for id_ in range(count)} | dict.fromkeys(ignore_ids, IGNORE_INDEX), expected=expected
            ),
            reader=reader,
            colors=classes.colors,
            remarks=[*classes.remarks, *files.remarks, *unclear],
            faults=faults,
        )


def _check_layout(root: Path, split: str) -> None:
    """Of a folder that is laid out otherwise, says what is expected and what is there.

    Raises:
        FileNotFoundError: there is no file of classes, or no folder of the split's images.
    """
    expected = f"expected are classes.txt, images/{split}/NAME.jpg and annotations/{split}/NAME.png"
    if not any((root / name).is_file() for name in (NAMES_FILE, *COLOR_FILES)):
        raise FileNotFoundError(f"{root / NAMES_FILE} is missing: {expected} in {root}, which {_holdings(root)}.")
    if not (root / "images").is_dir():
        raise FileNotFoundError(f"{root / 'images'} does not exist: {expected} in {root}, which {_holdings(root)}.")
    if not (images := root / "images" / split).is_dir():
        raise FileNotFoundError(
            f"{images} does not exist: {expected} in {root}, whose folder images {_holdings(images.parent)}; "
            "--data.train_split and --data.val_split say what the splits are called."
        )


def _holdings(folder: Path) -> str:
    names = [f"{path.name}/" if path.is_dir() else path.name for path in sorted(folder.iterdir())]
    return f"holds {few(names)}" if names else "is empty"
