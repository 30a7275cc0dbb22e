"""Pictures that Pillow does not write: of any bit depth, and with metadata in any place."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATION = 0x0112


def oriented(orientation: int) -> Image.Exif:
    """EXIF with an orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: NDArray[Any], *, bits: int, behind: Iterable[bytes] = ()) -> bytes:
    """A PNG of samples (H,W) or (H,W,C), with chunks behind the pixels."""
    height, width = samples.shape[:2]
    color = {1: 0, 2: 4, 3: 2, 4: 6}[samples.reshape(height, width, -1).shape[2]]
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in _packed_rows(samples, bits)))
    chunks = (chunk(b"IHDR", head), chunk(b"IDAT", data), *behind, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(samples: NDArray[Any], *, bits: int, photometric: int = 1, orientation: int = 1) -> bytes:
    """A TIFF of samples (H,W) or (H,W,C); photometric 0 counts from white, 1 from black, 2 is RGB."""
    height, width = samples.shape[:2]
    channels = samples.reshape(height, width, -1).shape[2]
    data = b"".join(_packed_rows(samples, bits, little=True))
    depths = struct.pack(f"<{channels}H", *[bits] * channels)
    entries = [(256, width), (257, height), (259, 1), (262, photometric), (ORIENTATION, orientation), (277, channels)]
    entries += [(278, height), *([(338, 0)] if channels > 3 else [])]
    fields = {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries}
    start = 8 + len(data)
    short = channels <= 2
    fields[258] = struct.pack("<HHI", 258, 3, channels) + (
        depths.ljust(4, b"\0") if short else struct.pack("<I", start)
    )
    fields[273] = struct.pack("<HHII", 273, 4, 1, 8)
    fields[279] = struct.pack("<HHII", 279, 4, 1, len(data))
    directory = struct.pack("<H", len(fields)) + b"".join(fields[tag] for tag in sorted(fields)) + bytes(4)
    return b"II*\0" + struct.pack("<I", start + len(depths)) + data + depths + directory


def _packed_rows(samples: NDArray[Any], bits: int, *, little: bool = False) -> list[bytes]:
    rows = samples.reshape(len(samples), -1).astype(np.int64)
    if bits == 16 and little:
        return [row.astype("<u2").tobytes() for row in rows]
    planes = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return [row.tobytes() for row in np.packbits(planes.reshape(len(rows), -1).astype(np.uint8), axis=1)]
