"""Images of any number of bands, from TIFF and NumPy files, with the values that these hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.data.limits import UnfitImageError, check_pixels

BAND_SUFFIXES: Final = (".tif", ".tiff", ".npy")
DTYPES: Final = ("uint8", "uint16", "float32")
"""What bands may be stored as."""
TIFF_STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_tiff(path: Path) -> bool:
    """Whether a file is a TIFF, whatever its name says.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    with _naming(path), path.open("rb") as file:
        return file.read(4) in TIFF_STARTS


def read_bands(path: Path, channels: int, *, max_pixels: int | None = None) -> Tensor:
    """Read a TIFF or ``.npy`` file as (C,H,W) uint8, uint16 or float32, as it is stored.

    The bands of a TIFF are the samples of its pixels, or its pages. Those of an array are on its first or its last
    side. Of a file that is not compressed, only the part is read that is looked at.

    Args:
        path: the image.
        channels: C.
        max_pixels: see `trainers.data.limits.check_pixels`.

    Raises:
        OSError: the file is missing or broken.
        ValueError: the image has other bands than are wanted, values of another type or that are no numbers, or too
            many pixels.
    """
    with _naming(path):
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="c", allow_pickle=False)
            bands = _bands_first(array, _axes(path, array.shape, channels))
            _check(path, bands.shape, bands.dtype, channels, max_pixels)
        else:
            with tifffile.TiffFile(path) as tiff:
                series = tiff.series[0]
                _check(path, _layout(series), series.dtype, channels, max_pixels)
                if series.keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE:
                    raise UnfitImageError(f"The image {path} holds indices of a palette, no bands; save its colours.")
                mappable = series.dataoffset is not None
                array = tifffile.memmap(path, mode="c") if mappable else series.asarray()
                bands = _bands_first(array, series.axes)
        return as_tensor(bands, path)


def as_tensor(bands: NDArray[Any], path: Path) -> Tensor:
    """The bands (C,H,W) as a tensor of the same values.

    Raises:
        UnfitImageError: a value is NaN or infinite.
    """
    # The smallest and the largest value are NaN where any is.
    if bands.dtype.kind == "f" and not np.isfinite((bands.min(), bands.max())).all():
        raise UnfitImageError(
            f"The image {path} holds values that are NaN or infinite; replace them by a number, and give their pixels "
            "the label 255."
        )
    return torch.from_numpy(bands.astype(bands.dtype.newbyteorder("="), copy=False))  # files may have the other order


def refuse_cut(path: Path) -> None:
    """Refuse a TIFF that is no picture, of which Pillow would show some bands as if they were all.

    Raises:
        OSError: the file is broken.
        UnfitImageError: it has other bands than grey, or red, green and blue, or inks.
    """
    with _naming(path), tifffile.TiffFile(path) as tiff:
        count, _, _ = _layout(tiff.series[0])
        if count not in (1, 3) and tiff.series[0].keyframe.photometric != tifffile.PHOTOMETRIC.SEPARATED:
            raise UnfitImageError(
                f"The image {path} has {count} bands, but pictures of red, green and blue are read; train with "
                f"--data.channels {count} if all images have so many, or save it as 8-bit RGB."
            )


def _layout(series: tifffile.TiffPageSeries) -> tuple[int, int, int]:
    """(C,H,W) of the bands."""
    height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
    return math.prod(series.shape) // (height * width), height, width


def _axes(path: Path, shape: tuple[int, ...], channels: int) -> str:
    """Which sides of an array are rows (Y), columns (X) and bands (S)."""
    if len(shape) == 2:
        return "YX"
    first, last = (len(shape) == 3 and shape[side] == channels for side in (0, -1))
    if first == last:
        fault = "may be either" if first else "is neither"
        raise UnfitImageError(
            f"The array {path} is of shape {shape}, which {fault} of ({channels}, H, W) and (H, W, {channels}), as "
            f"--data.channels is {channels}; save it as one of them, or as TIFF."
        )
    return "SYX" if first else "YXS"


def _bands_first(array: NDArray[Any], axes: str) -> NDArray[Any]:
    rows_last = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (-2, -1))
    return rows_last.reshape(-1, *rows_last.shape[-2:])


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], channels: int, max_pixels: int | None) -> None:
    """Refuse what an image's header tells."""
    count, height, width = shape
    if count != channels:
        raise UnfitImageError(
            f"The image {path} has {count} bands, but --data.channels is {channels}; save it with the bands that are "
            f"meant, or train with --data.channels {count} if all images have so many."
        )
    if dtype.name not in DTYPES:
        raise UnfitImageError(f"The image {path} holds values of {dtype.name}; save them as {', '.join(DTYPES)}.")
    check_pixels(path, (width, height), max_pixels)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What a damaged file ends in depends on the byte, and seldom names the file; we have one error."""
    try:
        yield
    except (UnfitImageError, MemoryError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(f"The image {path} does not exist.") from None
    except Exception as error:
        raise OSError(f"Cannot read the image {path} ({error}); replace or remove it.") from error
