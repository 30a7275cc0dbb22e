"""Pictures on disk: images as RGB, masks as class ids."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from trainers.data.limits import UnfitImageError, open_picture

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What a file may hold, whatever its suffix; other formats of Pillow are programs, such as PostScript."""


def read_image(path: str | Path, *, mask_size: tuple[int, int] | None = None, max_pixels: int | None = None) -> Tensor:
    """Read an 8-bit image as (3,H,W) uint8 RGB, turned as its EXIF orientation says.

    Grey and palette images become RGB; an alpha channel is dropped, and the colours below it are kept.

    Args:
        path: the image.
        mask_size: (H,W) of the image's mask. Where it fits the pixels as they are stored, but not the turned ones,
            the mask was drawn on the stored ones, and the image stays as stored.
        max_pixels: see `trainers.data.limits.check_pixels`.

    Raises:
        OSError: the file is missing, broken or no image.
        ValueError: the image has more than 8 bits a channel, or too many pixels.
    """
    picture = read_picture(path, mask_size=mask_size, max_pixels=max_pixels)
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"The image {path} has more than 8 bits a channel; convert it to 8-bit RGB.")
    rgb = np.array(picture.convert("RGB"))
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def read_picture(path: str | Path, *, mask_size: tuple[int, int] | None, max_pixels: int | None) -> Image.Image:
    """What `read_image` makes RGB of."""
    with _naming(path):
        stored = _decode(path, max_pixels)
        turned = ImageOps.exif_transpose(stored)
    as_stored = mask_size == stored.size[::-1] != turned.size[::-1]
    return stored if as_stored else turned


def read_ids(path: str | Path, *, max_pixels: int | None = None) -> NDArray[np.int64]:
    """Read a mask (H,W) of class ids; a palette's colours do not matter.

    Args:
        path: the mask.
        max_pixels: see `trainers.data.limits.check_pixels`.

    Raises:
        OSError: the file is missing, broken or no image.
        ValueError: the mask has several channels, or too many pixels.
    """
    with _naming(path):
        mask = _decode(path, max_pixels)
    if mask.mode not in ("1", "L", "P", "I", "I;16"):
        raise ValueError(
            f"The mask {path} holds {mask.mode} colours, not class ids; save it as a PNG with one channel or a palette."
        )
    return np.array(mask).astype(np.int64)


def _decode(path: str | Path, max_pixels: int | None) -> Image.Image:
    with open_picture(path, FORMATS, max_pixels) as image:
        image.load()
    return image


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Pillow has many errors for broken files, and few of them name the file; we have one."""
    try:
        yield
    except UnfitImageError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(f"The image {path} does not exist.") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise OSError(f"Cannot read the image {path} ({error}); replace or remove it.") from error
