"""How large a picture may be, and opening one that is larger than Pillow likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile

from trainers.data.problems import Problem, UnfitFileError


def check_pixels(path: str | Path, size: tuple[int, int], max_pixels: int | None) -> None:
    """Refuse a picture that has too many pixels.

    Args:
        path: the picture.
        size: its width and height.
        max_pixels: most pixels; ``None`` for as many as Pillow reads of a file that may be there to do harm.

    Raises:
        UnfitFileError: it has more.
    """
    if max_pixels is None and Image.MAX_IMAGE_PIXELS is not None:
        max_pixels = 2 * Image.MAX_IMAGE_PIXELS  # up to there it but warns
    width, height = size
    if max_pixels is not None and width * height > max_pixels:
        raise UnfitFileError(
            Problem(
                "images of too many pixels",
                str(path),
                f"has {width}x{height} = {width * height} pixels, above the limit of {max_pixels}",
                "if it is as it should be, set --data.max_pixels to that number, and --eval.mode slide to look at it "
                "in windows, or cut it into tiles",
                "The image",
            )
        )


def open_picture(path: str | Path, formats: tuple[str, ...], max_pixels: int | None) -> ImageFile.ImageFile:
    """Open a picture that is not too large; its pixels are not read yet.

    Raises:
        OSError: it is missing, or no picture in one of the formats.
        UnfitFileError: it has too many pixels, see `check_pixels`.
    """
    with _without_pillows_limit():
        picture = Image.open(path, formats=formats)
    try:
        check_pixels(path, picture.size, max_pixels)
    except UnfitFileError:
        picture.close()
        raise
    return picture


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Pillow has its limit in a global, for all of the process, and looks at it when it opens a picture."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
