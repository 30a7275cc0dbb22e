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

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What a file may hold, whatever its suffix; other formats of Pillow are programs, such as PostScript."""


def read_image(path: str | Path, *, mask_size: tuple[int, int] | None = None) -> Tensor:
    """Read an 8-bit image as (3,H,W) uint8 RGB, turned as its EXIF orientation says.

    Grey and palette images become RGB; an alpha channel is dropped, and the colours below it are kept.

    Args:
        path: the image.
        mask_size: (H,W) of the image's mask. Where it fits the pixels as they are stored, but not the turned ones,
            the mask was drawn on the stored ones, and the image stays as stored.

    Raises:
        OSError: the file is missing, broken or no image.
        ValueError: the image has more than 8 bits a channel.
    """
    with _naming(path):
        stored = _decode(path)
        turned = ImageOps.exif_transpose(stored)
    if stored.mode.startswith(("I", "F")):
        raise ValueError(f"The image {path} has more than 8 bits a channel; convert it to 8-bit RGB.")
    as_stored = mask_size == stored.size[::-1] != turned.size[::-1]
    rgb = np.array((stored if as_stored else turned).convert("RGB"))
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def read_ids(path: str | Path) -> NDArray[np.int64]:
    """Read a mask (H,W) of class ids; a palette's colours do not matter.

    Raises:
        OSError: the file is missing, broken or no image.
        ValueError: the mask has several channels.
    """
    with _naming(path):
        mask = _decode(path)
    if mask.mode not in ("1", "L", "P", "I", "I;16"):
        raise ValueError(
            f"The mask {path} holds {mask.mode} colours, not class ids; save it as a PNG with one channel or a palette."
        )
    return np.array(mask).astype(np.int64)


def _decode(path: str | Path) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        image.load()
    return image


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Pillow has many errors for broken files, and few of them name the file; we have one."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"The image {path} does not exist.") from None
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise OSError(f"Cannot read the image {path} ({error}); replace or remove it.") from error
