"""What reads the images of a dataset: pictures, or files of bands, all with the same number of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from torch import Tensor

from trainers.data.bands import as_tensor, is_tiff, read_bands, refuse_cut, unfit
from trainers.data.reading import IMAGE_SUFFIXES, read_image, read_picture


@dataclass(frozen=True)
class ImageReader:
    """Reads the images of a dataset.

    Attributes:
        channels: bands C of each image, of 8 bits, 16 bits or float32; ``None`` for pictures of 8 bits, which become
            red, green and blue.
        max_pixels: see `trainers.data.limits.check_pixels`.
    """

    channels: int | None = None
    max_pixels: int | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Those of the files that are images."""
        return IMAGE_SUFFIXES if self.channels is None else (*IMAGE_SUFFIXES, ".npy")

    def __call__(self, path: str | Path, *, as_stored: bool = False) -> Tensor:
        """Read an image as (C,H,W) uint8, uint16 or float32.

        Args:
            path: the image.
            as_stored: leave the pixels of a picture as they lie in the file, see `trainers.data.reading.read_image`.

        Raises:
            OSError: the file is missing, broken or no image.
            ValueError: the image has other bands than are wanted, values that do not fit, or too many pixels.
        """
        path = Path(path)
        tiff = is_tiff(path)
        if self.channels is not None and (tiff or path.suffix.lower() == ".npy"):
            return read_bands(path, self.channels, max_pixels=self.max_pixels)
        if tiff:
            refuse_cut(path)
        if self.channels in (None, 3):
            return read_image(path, as_stored=as_stored, max_pixels=self.max_pixels)
        return self._read_picture(path, as_stored=as_stored)

    def _read_picture(self, path: Path, *, as_stored: bool) -> Tensor:
        """A grey picture as one band, and one of red, green, blue and alpha as four."""
        picture = read_picture(path, as_stored=as_stored, max_pixels=self.max_pixels)
        if self.channels == 1 and picture.mode in ("1", "L", "LA"):
            picture = picture.convert("L")
        elif (self.channels, picture.mode) not in ((1, "I;16"), (1, "I;16B"), (4, "RGBA")):
            raise unfit(
                "pictures of other colours",
                path,
                f"holds {picture.mode} colours, but --data.channels is {self.channels}",
                f"save it as {'grey' if self.channels == 1 else f'TIFF or .npy with {self.channels} bands'}",
            )
        pixels = np.array(picture)
        return as_tensor(np.ascontiguousarray(np.moveaxis(np.atleast_3d(pixels), 2, 0)), path)


PICTURES: Final = ImageReader()
"""Reads pictures of red, green and blue."""
