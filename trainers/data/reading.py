"""Pictures on disk: images as RGB, masks as class ids."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainers.data.colors import ColorTable
from trainers.data.problems import MissingFileError, Problem, UnfitFileError, UnreadableFileError
from trainers.data.stored import StoredPicture, decode

IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)


def read_image(path: str | Path, *, as_stored: bool = False, max_pixels: int | None = None) -> Tensor:
    """Read an 8-bit image as (3,H,W) uint8 RGB, turned as its EXIF orientation says.

    Grey and palette images become RGB; an alpha channel is dropped, and the colours below it are kept.

    Args:
        path: the image.
        as_stored: leave the pixels as they lie in the file, whatever the orientation; see `trainers.data.orientation`.
        max_pixels: see `trainers.data.limits.check_pixels`.

    Raises:
        OSError: the file is missing, broken or no image.
        ValueError: the image has more than 8 bits a channel, or too many pixels.
    """
    image = read_picture(path, as_stored=as_stored, max_pixels=max_pixels)
    if image.mode.startswith(("I", "F")):
        raise _too_deep("image", path, "convert it to 8-bit RGB")
    rgb = np.array(image.convert("RGB"))
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def read_picture(path: str | Path, *, as_stored: bool = False, max_pixels: int | None = None) -> Image.Image:
    """What `read_image` makes RGB of; also grey of more than 8 bits, but no colours of which Pillow leaves 8."""
    with _naming(path):
        picture = decode(path, max_pixels=max_pixels)
        image = picture.stored if as_stored else picture.turned
    if picture.largest > 255 and not image.mode.startswith(("I", "F")):
        raise _too_deep("image", path, "convert it to 8-bit RGB")
    return image


def read_ids(path: str | Path, *, colors: ColorTable | None = None, max_pixels: int | None = None) -> NDArray[np.int64]:
    """Read a mask (H,W) of class ids, as they are stored, whatever an EXIF orientation says.

    A mask of one channel holds the ids themselves: grey values of any depth as they lie in the file, or the indices of
    a palette, whose colours do not matter.

    Args:
        path: the mask.
        colors: the colours of the classes. Masks of several channels are then read by it, and so are those with a
            palette, by the colours in it. One channel without a palette still holds ids; where its grey values are
            colours of the table as well, and those of other classes, it is refused.
        max_pixels: see `trainers.data.limits.check_pixels`.

    Raises:
        OSError: the file is missing, broken or no image.
        ValueError: the mask went through JPEG, has colours but no table, or colours that the table does not have; or
            it has too many pixels.
    """
    with _naming(path):
        picture = decode(path, max_pixels=max_pixels)
        mask = picture.stored
    if picture.lossy:
        raise UnfitFileError(_lossy(path))
    if mask.mode in ("1", "L", "I", "I;16", "I;16B") or (mask.mode == "P" and colors is None):
        ids = _samples(picture, mask)
        if colors is not None and mask.mode in ("1", "L"):
            colors.refuse_doubt(ids, _rgb(mask), name=str(path))
        return ids
    if colors is None or mask.mode == "F":
        raise UnfitFileError(_in_colors(path, mask.mode))
    if picture.largest > 255:
        raise _too_deep("mask", path, "save its colours with 8 bits")
    return colors.read(_rgb(mask), name=str(path))


def _samples(picture: StoredPicture, mask: Image.Image) -> NDArray[np.int64]:
    """The values of a mask's one channel as they lie in the file."""
    ids = np.array(mask).astype(np.int64)
    whole = {"L": 255, "I": 65535}.get(mask.mode)
    if whole and (mask.mode == "L" or picture.decoded.format == "PPM") and picture.largest < whole:
        ids = (ids * picture.largest + whole // 2) // whole  # Pillow made the largest value the mode's
    return picture.largest - ids if picture.inverted else ids


def _rgb(mask: Image.Image) -> NDArray[np.uint8]:
    return np.array(mask.convert("RGB"))


def _too_deep(noun: str, path: str | Path, remedy: str) -> UnfitFileError:
    kind = f"{noun}s of more than 8 bits a channel"
    return UnfitFileError(Problem(kind, str(path), "has more than 8 bits a channel", remedy, f"The {noun}"))


def _lossy(path: str | Path) -> Problem:
    return Problem(
        "masks that went through JPEG",
        str(path),
        "holds a JPEG, whatever its name, and JPEG changes the ids along every edge",
        "export the mask anew as PNG from where it was drawn; converting this file does not bring the ids back",
    )


def _in_colors(path: str | Path, mode: str) -> Problem:
    return Problem(
        "masks in colours",
        str(path),
        f"holds {mode} colours, not class ids",
        "save it as a PNG with one channel or a palette, or name the colours beside classes.txt in colors.txt, "
        "NAME R G B a line",
    )


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Pillow has many errors for broken files, and few of them name the file; we have one."""
    try:
        yield
    except UnfitFileError:
        raise
    except FileNotFoundError:
        raise MissingFileError(f"The image {path} does not exist.") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        problem = Problem(
            "files that cannot be read", str(path), f"({error})", "replace or remove it", "Cannot read the image"
        )
        raise UnreadableFileError(problem) from error
