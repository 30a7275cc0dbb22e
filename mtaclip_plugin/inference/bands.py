"""Masks at the size of the image, a band of rows after the other, so that never all of them lie in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.structures import MaskPrediction

BAND_BYTES = 16 * 2**20
"""What masks and scores of a band may take: little beside a model, yet work enough for many cores."""


def full_masks(prediction: MaskPrediction) -> Tensor:
    """Masks of the image as it was given, padding cut off.

    Args:
        prediction: the model's prediction.

    Returns:
        (B, Q, H, W) float32 in [0, 1].
    """
    height, width = prediction.image_size
    return _resized(prediction.mask_logits.float(), prediction.padded_size)[..., :height, :width].sigmoid()


def mask_bands(prediction: MaskPrediction, *, num_classes: int) -> Iterator[tuple[slice, Tensor]]:
    """Gives ``full_masks`` band by band.

    Args:
        prediction: the model's prediction.
        num_classes: K; the scores of a band count in its memory as the masks do.

    Yields:
        The rows of a band, and its masks (B, Q, rows, W).
    """
    mask_logits = prediction.mask_logits.float()
    (height, width), (padded_height, padded_width) = prediction.image_size, prediction.padded_size
    batch, num_queries, cells, _ = mask_logits.shape
    stride = padded_height // cells
    step = max(1, BAND_BYTES // (4 * batch * (num_queries + num_classes) * stride * padded_width))
    for top in range(0, -(-height // stride), step):
        bottom = min(top + step, cells)
        # Rows of the band look at one more cell above and below it: with these they are those of the whole image.
        first, last = max(top - 1, 0), min(bottom + 1, cells)
        resized = _resized(mask_logits[:, :, first:last], ((last - first) * stride, padded_width))
        rows = slice(top * stride, min(bottom * stride, height))
        yield rows, resized[:, :, rows.start - first * stride : rows.stop - first * stride, :width].sigmoid()


def in_one_piece(*sources: Tensor) -> bool:
    """Whether bands would be in the way: of a gradient, or of a compiler, which fuses on its own and for any size."""
    if torch.compiler.is_compiling():
        return True
    return torch.is_grad_enabled() and any(source.requires_grad for source in sources)


def _resized(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
