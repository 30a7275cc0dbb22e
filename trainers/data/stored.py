"""A picture as it lies in its file, and what the file says of it beside its pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin

from trainers.data.limits import open_picture

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What a file may hold, whatever its suffix; other formats of Pillow are programs, such as PostScript."""

_TURN_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""From the pixels that an EXIF orientation has turned to those that are stored."""


@dataclass(frozen=True)
class StoredPicture:
    """A decoded picture.

    Attributes:
        decoded: what Pillow makes of the file: it turns a TIFF while it reads it, and no other format.
        turned_by: the EXIF orientation that Pillow turned it by; 1 for none.
        largest: the largest value that a sample can have in the file; Pillow scales samples to 8 or 16 bits.
        inverted: whether the samples of its channel count from white; Pillow makes them count from black.
        lossy: whether the file went through JPEG, so that its pixels are only nearly what was drawn.
    """

    decoded: Image.Image
    turned_by: int
    largest: int
    inverted: bool
    lossy: bool

    @property
    def stored(self) -> Image.Image:
        """The pixels as they lie in the file."""
        return self.decoded.transpose(_TURN_BACK[self.turned_by]) if self.turned_by in _TURN_BACK else self.decoded

    @property
    def turned(self) -> Image.Image:
        """The pixels turned as the EXIF orientation says."""
        return ImageOps.exif_transpose(self.decoded)


@dataclass(frozen=True)
class Header:
    """What the head of a picture's file says.

    Attributes:
        size: (H,W) of the pixels as they are stored.
        orientation: that of EXIF or XMP: 1 is upright, 3 upside down, 5 to 8 swap height and width.
    """

    size: tuple[int, int]
    orientation: int

    @property
    def turned_size(self) -> tuple[int, int]:
        """(H,W) of the pixels turned as the orientation says."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def decode(path: str | Path, *, max_pixels: int | None = None) -> StoredPicture:
    """Read a picture whole.

    Args:
        path: the picture.
        max_pixels: see `trainers.data.limits.check_pixels`.

    Raises:
        Exception: one of Pillow's many; the picture is missing, broken or of another format.
        UnfitFileError: it has too many pixels.
    """
    with open_picture(path, FORMATS, max_pixels) as image:
        turned_by, inverted = 1, False
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            image.filename = ""  # or Pillow maps the file into memory, where rows of a turned one have a wrong length
            turned_by = image.getexif().get(ExifTags.Base.Orientation, 1)
            inverted = image.mode == "L" and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
        picture = StoredPicture(
            decoded=image,
            turned_by=turned_by,
            largest=_largest_sample(image, path),
            inverted=inverted,
            lossy=image.format in ("JPEG", "MPO") or image.info.get("compression") in ("jpeg", "tiff_jpeg"),
        )
        image.load()
    return picture


def read_header(path: str | Path, *, max_pixels: int | None = None) -> Header:
    """Read size and orientation of a picture, but not its pixels.

    Args:
        path: the picture.
        max_pixels: see `trainers.data.limits.check_pixels`.

    Raises:
        Exception: one of Pillow's many; the picture is missing, broken or of another format.
        UnfitFileError: it has too many pixels.
    """
    with open_picture(path, FORMATS, max_pixels) as image:
        # Pillow decodes a PNG to look for EXIF behind its pixels, where it seldom is.
        ahead = image.format == "PNG" and not _has_orientation_behind_pixels(path)
        exif = Image.Image.getexif(image) if ahead else image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        size = (image.height, image.width)
        if image.format == "TIFF" and orientation in (5, 6, 7, 8):  # whose size Pillow gives as turned
            size = size[::-1]
    return Header(size, orientation if orientation in _TURN_BACK else 1)


def _largest_sample(image: ImageFile.ImageFile, path: str | Path) -> int:
    """The largest value that a sample can have, from the head of a picture that is not decoded yet."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(2 ** max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) - 1)
    if image.format == "PPM":
        arguments = image.tile[0].args
        if isinstance(arguments, tuple):
            return int(arguments[1])
        return 65535 if arguments == "I;16B" else 255
    if image.format not in ("PNG", "BMP"):
        return 255
    with Path(path).open("rb") as file:
        head = file.read(30)
    if image.format == "PNG":
        return int(2 ** head[24] - 1)
    if image.mode == "L" and int.from_bytes(head[28:], "little") < 8:
        raise OSError("a grey BMP of less than 8 bits, which Pillow decodes wrongly")
    return 255


def _has_orientation_behind_pixels(path: str | Path) -> bool:
    behind = False
    for kind, start in _png_chunks(path):
        behind = behind or kind == b"IDAT"
        if behind and (kind == b"eXIf" or start.startswith((b"XML:com.adobe.xmp", b"Raw profile type exif"))):
            return True
    return False


def _png_chunks(path: str | Path) -> Iterator[tuple[bytes, bytes]]:
    """The type and the first bytes of each chunk of a PNG."""
    with Path(path).open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            start = file.read(min(length, 24))
            file.seek(length - len(start) + 4, 1)
            yield kind, start
