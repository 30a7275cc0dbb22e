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

from trainers.data.limits import check_pixels
from trainers.data.problems import MissingFileError, Problem, UnfitFileError, UnreadableFileError

DTYPES: Final = ("uint8", "uint16", "float32")
"""What bands may be stored as."""
_TIFF_STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION: Final = 274


def is_tiff(path: Path) -> bool:
    """Whether a file is a TIFF, whatever its name says.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    with _naming(path), path.open("rb") as file:
        return file.read(4) in _TIFF_STARTS


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
        read = _read_array if path.suffix.lower() == ".npy" else _read_tiff
        return as_tensor(read(path, channels, max_pixels), path)


def as_tensor(bands: NDArray[Any], path: Path) -> Tensor:
    """The bands (C,H,W) as a tensor of the same values.

    Raises:
        UnfitFileError: a value is NaN or infinite.
    """
    # The smallest and the largest value are NaN where any is.
    if bands.dtype.kind == "f" and not np.isfinite((bands.min(), bands.max())).all():
        raise unfit(
            "images with values that are no numbers",
            path,
            "holds values that are NaN or infinite",
            "replace them by a number, and give their pixels the label 255",
        )
    return torch.from_numpy(bands.astype(bands.dtype.newbyteorder("="), copy=False))  # files may have the other order


def refuse_cut(path: Path) -> None:
    """Refuse a TIFF that is no picture, of which Pillow would show some bands as if they were all.

    Raises:
        OSError: the file is broken.
        UnfitFileError: it has other bands than grey, or red, green and blue, or inks.
    """
    with _naming(path), tifffile.TiffFile(path) as tiff:
        count, _, _ = _layout(tiff.series[0])
        if count not in (1, 3) and tiff.series[0].keyframe.photometric != tifffile.PHOTOMETRIC.SEPARATED:
            raise unfit(
                "images of more bands than red, green and blue",
                path,
                f"has {count} bands",
                "train with --data.channels and their number if all images have so many, or save it as 8-bit RGB",
            )


def unfit(kind: str, path: Path, detail: str, remedy: str) -> UnfitFileError:
    """What is said of an image that is whole, but not what is wanted; see `trainers.data.problems.Problem`."""
    return UnfitFileError(Problem(kind, str(path), detail, remedy, "The image"))


def _read_array(path: Path, channels: int, max_pixels: int | None) -> NDArray[Any]:
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    axes = "YX"
    if array.ndim != 2:
        first, last = (array.ndim == 3 and array.shape[side] == channels for side in (0, -1))
        if first == last:
            raise unfit(
                "arrays of another shape",
                path,
                f"is an array of shape {array.shape}, which {'may be either' if first else 'is neither'} of "
                f"({channels}, H, W) and (H, W, {channels}), with --data.channels {channels}",
                "save it as one of them, or as TIFF",
            )
        axes = "SYX" if first else "YXS"
    bands = _bands_first(array, axes)
    _check(path, bands.shape, bands.dtype, channels, max_pixels)
    return bands


def _read_tiff(path: Path, channels: int, max_pixels: int | None) -> NDArray[Any]:
    with tifffile.TiffFile(path) as tiff:
        series, page = tiff.series[0], tiff.series[0].keyframe
        _check(path, _layout(series), series.dtype, channels, max_pixels)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise unfit("images with a palette", path, "holds indices of a palette, no bands", "save its colours")
        if page.tags.valueof(_ORIENTATION, 1) != 1:
            raise unfit("images that are stored turned", path, "is to be turned to be seen", "save it upright")
        mappable = series.dataoffset is not None
        return _bands_first(tifffile.memmap(path, mode="c") if mappable else series.asarray(), series.axes)


def _layout(series: tifffile.TiffPageSeries) -> tuple[int, int, int]:
    """(C,H,W) of the bands."""
    height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
    return math.prod(series.shape) // (height * width), height, width


def _bands_first(array: NDArray[Any], axes: str) -> NDArray[Any]:
    rows_last = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (-2, -1))
    return rows_last.reshape(-1, *rows_last.shape[-2:])


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], channels: int, max_pixels: int | None) -> None:
    """Refuse what an image's header tells."""
    count, height, width = shape
    if count != channels:
        raise unfit(
            "images of another number of bands",
            path,
            f"has {count} bands, but --data.channels is {channels}",
            "save it with the bands that are meant, or train with another number if all images have so many",
        )
    if dtype.name not in DTYPES:
        raise unfit("images of another type", path, f"holds values of {dtype.name}", f"save as {', '.join(DTYPES)}")
    check_pixels(path, (width, height), max_pixels)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What a damaged file ends in depends on the byte, and seldom names the file; we have one error."""
    try:
        yield
    except (UnfitFileError, MemoryError):
        raise
    except FileNotFoundError:
        raise MissingFileError(f"The image {path} does not exist.") from None
    except Exception as error:
        problem = Problem(
            "files that cannot be read", str(path), f"({error})", "replace or remove it", "Cannot read the image"
        )
        raise UnreadableFileError(problem) from error
