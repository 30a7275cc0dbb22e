"""Maps at the size of the image, a band of rows after the other, so that never all of them lie in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.structures import MaskPrediction

BAND_BYTES = 16 * 2**20
"""What maps and scores of a band may take on a CPU: little beside a model, yet work enough for many cores."""
GPU_BAND_BYTES = 256 * 2**20
"""The same on other devices, which want more work at a time."""


def full_maps(maps: Tensor, prediction: MaskPrediction) -> Tensor:
    """Maps resized to the image as it was given, padding cut off.

    Args:
        maps: (B, N, h, w) float32, at stride 4 of the padded image.
        prediction: whose sizes are meant.

    Returns:
        (B, N, H, W) float32.
    """
    height, width = prediction.image_size
    return _resized(maps, prediction.padded_size)[..., :height, :width]


def map_bands(maps: Tensor, prediction: MaskPrediction, *, num_classes: int) -> Iterator[tuple[slice, Tensor]]:
    """Gives ``full_maps`` band by band.

    Args:
        maps: (B, N, h, w) float32, at stride 4 of the padded image.
        prediction: whose sizes are meant.
        num_classes: K; the scores of a band count in its memory as the maps do.

    Yields:
        The rows of a band, and its maps (B, N, rows, W).
    """
    (height, width), (padded_height, padded_width) = prediction.image_size, prediction.padded_size
    batch, count, cells, _ = maps.shape
    stride = padded_height // cells
    band_bytes = BAND_BYTES if maps.device.type == "cpu" else GPU_BAND_BYTES
    step = max(1, band_bytes // (4 * batch * (count + num_classes) * stride * padded_width))
    for top in range(0, -(-height // stride), step):
        bottom = min(top + step, cells)
        # Rows of the band look at one more cell above and below it: with these they are those of the whole image.
        first, last = max(top - 1, 0), min(bottom + 1, cells)
        resized = _resized(maps[:, :, first:last], ((last - first) * stride, padded_width))
        rows = slice(top * stride, min(bottom * stride, height))
        yield rows, resized[:, :, rows.start - first * stride : rows.stop - first * stride, :width]


def in_one_piece(*sources: Tensor) -> bool:
    """Whether bands would be in the way: of a gradient, or of a compiler, which fuses on its own and for any size."""
    if torch.compiler.is_compiling():
        return True
    return torch.is_grad_enabled() and any(source.requires_grad for source in sources)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
