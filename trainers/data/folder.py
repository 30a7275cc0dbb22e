"""Images and label maps in a folder: ``images/``, ``annotations/`` and ``classes.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainers.data.batch import IGNORE_INDEX
from trainers.data.labels import LabelTable
from trainers.data.pairs import Pair, PairDataset
from trainers.data.reader import PICTURES, ImageReader


class FolderDataset(PairDataset):
    """One split of a data set in the folder format.

    It holds ``images/{split}/NAME.jpg`` (or what else the reader reads), ``annotations/{split}/NAME.png`` with one
    class id a pixel, and ``classes.txt`` with one class name a line, in the order of the ids. Palette masks are read as
    indices. Masks without an image are left aside.

    Args:
        root: the folder that holds ``classes.txt``.
        split: name of the folders below ``images`` and ``annotations``.
        ignore_ids: ids that are void in the masks, beside 255.
        reader: reads the images.

    Raises:
        FileNotFoundError: a folder or ``classes.txt`` is missing, or all masks are.
        ValueError: there is no image, two images have one name, or ``classes.txt`` is not a list of names.
    """

    def __init__(
        self, root: str | Path, split: str, *, ignore_ids: Sequence[int] = (), reader: ImageReader = PICTURES
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"The data folder {root} does not exist; set --data.root to one that does.")
        class_names = read_class_names(root / "classes.txt")
        images = _find_images(root / "images" / split, reader.suffixes)
        masks = root / "annotations" / split
        classes = {id_: id_ for id_ in range(len(class_names))} | dict.fromkeys(ignore_ids, IGNORE_INDEX)
        expected = (
            f"classes.txt names K={len(class_names)} classes, 0 to {len(class_names) - 1}; add names, or list ids that "
            "are void in --data.ignore_ids"
        )
        super().__init__(
            [Pair(name, image, masks / f"{name}.png") for name, image in images.items()],
            class_names=class_names,
            table=LabelTable.of(classes, expected=expected),
            reader=reader,
        )


def read_class_names(path: Path) -> list[str]:
    """Read one class name a line, in the order of the ids.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text, or has fewer than two names, an empty line between names, a name twice, or more
            than 255 names.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected one class name a line, in the order of the ids.")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); save it as such.") from error
    if not names or "" in names:
        raise ValueError(f"{path} is empty or has an empty line; write one class name a line.")
    if len(names) == 1:
        raise ValueError(f"{path} names the class {names[0]} only; name what is not {names[0]} too, as a class.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{path} names {', '.join(twice)} more than once; give every class a name of its own.")
    if len(names) > IGNORE_INDEX:
        raise ValueError(f"{path} names {len(names)} classes; at most {IGNORE_INDEX} fit into a mask of 8 bits.")
    return names


def _find_images(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"The image folder {folder} does not exist; check --data.root and the split's name.")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes:
            continue
        if path.stem in images:
            raise ValueError(f"{images[path.stem]} and {path} have one name and would share a mask; rename one.")
        images[path.stem] = path
    if not images:
        raise ValueError(f"{folder} holds no image ({', '.join(suffixes)}).")
    return images
