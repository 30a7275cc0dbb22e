"""Rows of a resized image, from only those rows of the image that they depend on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.engine.windows import Rows


def resized_rows(
    rows: Rows, size: tuple[int, int], target: tuple[int, int], span: tuple[int, int], *, antialias: bool
) -> Tensor:
    """Rows of what ``F.interpolate`` makes of images in its mode "bilinear" without aligned corners.

    Args:
        rows: Gives rows of the images.
        size: Height and width of the images.
        target: Height and width that they are resized to.
        span: First of the rows that are wanted, and the one after the last.
        antialias: Whether shrinking averages over the pixels that fall together.

    Returns:
        (B, C, rows, W'); where the size is the target, the very rows.
    """
    if size == target:
        return rows(*span)
    index, weights = _taps(size[0], target[0], span, antialias=antialias)
    first, last = int(index.min()), int(index.max()) + 1
    wide = F.interpolate(
        rows(first, last), (last - first, target[1]), mode="bilinear", align_corners=False, antialias=antialias
    )
    index, weights = (index - first).to(wide.device), weights.to(wide)
    total = wide[:, :, index[0]].mul_(weights[0, :, None])
    for places, shares in zip(index[1:], weights[1:], strict=True):
        total.addcmul_(wide[:, :, places], shares[:, None])
    return total


def _taps(source: int, target: int, span: tuple[int, int], *, antialias: bool) -> tuple[Tensor, Tensor]:
    """Which places of a side make up those of a resized one, (T, places) int64, and their shares, float32."""
    support = max(source / target, 1.0) if antialias else 1.0
    scale = torch.tensor(source / target, dtype=torch.float32).double()
    centres = (torch.arange(*span, dtype=torch.float64) + 0.5) * scale
    # Of a long side, rounding moves a place by a thousandth of a pixel: round where torch does.
    places = centres.float() - 0.5 if antialias else (centres - 0.5).float()
    index = (places - support + 1).floor() + torch.arange(math.ceil(2 * support))[:, None]
    weights = (1 - (index - places).abs() / support).clamp(min=0)
    weights = torch.where((index >= 0) & (index < source), weights, 0)  # at an edge the other places count more
    return index.clamp(0, source - 1).long(), weights / weights.sum(0)
