"""Masks at the size of the image, a band of rows after the other, so that never all of them lie in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BAND_BYTES = 16 * 2**20
"""What masks and scores of a band take: little beside a model, yet enough work for the cores of a processor."""


def full_masks(mask_logits: Tensor, padded_size: tuple[int, int], rows: slice, width: int) -> Tensor:
    """Masks at full size.

    Args:
        mask_logits: (B, Q, h, w).
        padded_size: (H', W'), what they are resized to.
        rows: those that are kept of H'.
        width: W, the columns that are kept of W'.

    Returns:
        (B, Q, rows, W) in [0, 1].
    """
    resized = F.interpolate(mask_logits, size=padded_size, mode="bilinear", align_corners=False)
    return resized[:, :, rows, :width].sigmoid()


def mask_bands(
    mask_logits: Tensor, padded_size: tuple[int, int], image_size: tuple[int, int], *, num_classes: int
) -> Iterator[tuple[slice, Tensor]]:
    """Gives the rows of ``full_masks`` band by band.

    Args:
        mask_logits: (B, Q, h, w).
        padded_size: (H', W'), a multiple of (h, w).
        image_size: (H, W).
        num_classes: K; the scores of a band take memory as its masks do.

    Yields:
        The rows of a band, and their masks (B, Q, rows, W).
    """
    batch, num_queries, cells, _ = mask_logits.shape
    height, width = image_size
    stride = padded_size[0] // cells
    bytes_of_a_cell = 4 * batch * (num_queries + num_classes) * stride * padded_size[1]
    step = max(1, BAND_BYTES // bytes_of_a_cell)
    for top in range(0, -(-height // stride), step):
        # Resizing looks at one more cell above and below: with these the band's rows are those of the whole.
        first, last = max(0, top - 1), min(cells, top + step + 1)
        rows = slice(top * stride, min(height, (top + step) * stride))
        crop = slice(rows.start - first * stride, rows.stop - first * stride)
        size = (last - first) * stride, padded_size[1]
        yield rows, full_masks(mask_logits[:, :, first:last], size, crop, width)


def in_one_piece(*tensors: Tensor) -> bool:
    """Whether bands would be in the way: of a gradient, or of a compiler, which fuses on its own and for any size."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
