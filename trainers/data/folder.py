"""Images and label maps in a folder: ``images/``, ``annotations/`` and ``classes.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from trainers.data.batch import IGNORE_INDEX, Sample, SegmentationDataset

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class FolderDataset(SegmentationDataset):
    """One split of a data set in the folder format.

    It holds ``images/{split}/NAME.jpg`` (or jpeg, png), ``annotations/{split}/NAME.png`` with one class id a
    pixel, and ``classes.txt`` with one class name a line, in the order of the ids. Palette masks are read as
    indices. Masks without an image are left aside.

    Args:
        root: the folder that holds ``classes.txt``.
        split: name of the folders below ``images`` and ``annotations``.
        ignore_ids: ids that are void in the masks, beside 255.

    Raises:
        FileNotFoundError: a folder, ``classes.txt`` or an image's mask is missing.
        ValueError: there is no image, two images have one name, or ``classes.txt`` is not a list of names.
    """

    def __init__(self, root: str | Path, split: str, *, ignore_ids: Sequence[int] = ()) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"The data folder {root} does not exist; set --data.root to one that does.")
        self.class_names = read_class_names(root / "classes.txt")
        self.ignore_ids = tuple(ignore_ids)
        self._images = _find_images(root / "images" / split)
        self.names = list(self._images)
        masks = root / "annotations" / split
        self._masks = {name: masks / f"{name}.png" for name in self.names}
        for name, mask in self._masks.items():
            if not mask.is_file():
                raise FileNotFoundError(
                    f"The image {self._images[name]} has no mask: expected a PNG of class ids at {mask}."
                )

    def __len__(self) -> int:
        """Number of images in the split."""
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its mask.

        Raises:
            OSError: a file cannot be read.
            ValueError: the mask holds colours or unknown ids, or differs from the image in size.
        """
        name = self.names[index]
        image = read_image(self._images[name])
        ids = _read_ids(self._masks[name])
        if ids.shape != tuple(image.shape[1:]):
            raise ValueError(
                f"The mask {self._masks[name]} is {ids.shape[1]}x{ids.shape[0]} pixels but its image is "
                f"{image.shape[2]}x{image.shape[1]}; give both the same size."
            )
        ids[np.isin(ids, self.ignore_ids)] = IGNORE_INDEX
        unknown = np.unique(ids[(ids < 0) | ((ids >= len(self.class_names)) & (ids != IGNORE_INDEX))])
        if unknown.size:
            raise ValueError(
                f"The mask {self._masks[name]} has the ids {unknown.tolist()}, but classes.txt names K="
                f"{len(self.class_names)} classes, 0 to {len(self.class_names) - 1}; add names, or list ids "
                "that are void in --data.ignore_ids."
            )
        return Sample(image=image, label=torch.from_numpy(ids), name=name)


def read_image(path: str | Path) -> Tensor:
    """Read an 8-bit image as (3,H,W) uint8 RGB, turned as its EXIF orientation says.

    Raises:
        OSError: the file is missing, broken or no image.
        ValueError: the image has more than 8 bits a channel.
    """
    image = _open(Path(path))
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"The image {path} has more than 8 bits a channel; convert it to 8-bit RGB.")
    rgb = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def read_class_names(path: Path) -> list[str]:
    """Read one class name a line, in the order of the ids.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has fewer than two names, an empty line between names, a name twice, or more than 255 names.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected one class name a line, in the order of the ids.")
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
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


def _find_images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"The image folder {folder} does not exist; check --data.root and the split's name.")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in images:
            raise ValueError(f"{images[path.stem]} and {path} have one name and would share a mask; rename one.")
        images[path.stem] = path
    if not images:
        raise ValueError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
    return images


def _read_ids(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    mask = _open(path)
    if mask.mode not in ("1", "L", "P", "I", "I;16"):
        raise ValueError(
            f"The mask {path} holds {mask.mode} colours, not class ids; save it as a PNG with one channel or a palette."
        )
    return np.array(mask).astype(np.int64)


def _open(path: Path) -> Image.Image:
    """Open and decode a picture; Pillow has many errors for broken files, we have one."""
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        raise FileNotFoundError(f"The image {path} does not exist.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"Cannot read the image {path} ({error}); replace or remove it.") from error
    return image
