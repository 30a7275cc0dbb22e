"""Scores of an image from several views of it: resized, and mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from trainers.engine.windows import Scorer


def average_views(scores: Scorer, images: Tensor, *, scales: Sequence[float], flip: bool) -> Tensor:
    """The mean of the scores of all views, each brought back to the size and the side of the image.

    One view is worked off after the other: besides the sum, the scores of a single view lie in memory.

    Args:
        scores: Gives the scores of a view.
        images: (B, C, H, W).
        scales: Factors that the images are resized by; shrinking averages over the pixels that fall together.
        flip: Whether each of them is also looked at mirrored left to right.

    Returns:
        (B, K, H, W) scores.
    """
    height, width = images.shape[-2:]
    total: Tensor | None = None
    for scale in scales:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        resized = _resize(images, size, antialias=True)
        for mirrored in (False, True) if flip else (False,):
            part = _mirror(scores(_mirror(resized, mirrored)), mirrored)
            part = _resize(part, (height, width), antialias=False)
            total = part if total is None else total.add_(part)
            del part  # before the next view is scored
    assert total is not None
    return total.div_(len(scales) * (2 if flip else 1))


def _mirror(images: Tensor, mirrored: bool) -> Tensor:
    return images.flip(-1) if mirrored else images


def _resize(images: Tensor, size: tuple[int, int], *, antialias: bool) -> Tensor:
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=antialias)
