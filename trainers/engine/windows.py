"""Scores of an image from windows that slide over it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

Scorer = Callable[[Tensor], Tensor]
"""Gives the scores (B, K, H, W) of images (B, C, H, W), of any size, as a tensor that nothing else holds."""


def window_starts(length: int, *, window: int, stride: int) -> list[int]:
    """Where windows begin along a side, in pixels.

    The last one ends flush with the side instead of beyond it, so all of them are of full length; a side that is
    shorter than a window has one, which is as long as the side.

    Args:
        length: Of the side.
        window: Length of a window.
        stride: From one window to the next.
    """
    last = max(length - window, 0)
    return [min(start, last) for start in range(0, last + stride, stride)]


def slide(scores: Scorer, images: Tensor, *, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """The mean of the scores of all windows that a pixel lies in, where the windows lie as in mmsegmentation.

    Args:
        scores: Gives the scores of a window.
        images: (B, C, H, W) of any size.
        window: Height and width of a window.
        stride: Pixels from one window to the next, down and to the right; at most the window, or pixels have none.

    Returns:
        (B, K, H, W) scores.
    """
    (height, width), (down, right) = window, stride
    rows, columns = images.shape[-2:]
    tops = window_starts(rows, window=height, stride=down)
    lefts = window_starts(columns, window=width, stride=right)
    total: Tensor | None = None
    for top, left in product(tops, lefts):
        area = (..., slice(top, top + height), slice(left, left + width))
        part = scores(images[area])
        if total is None:  # only now is the number of classes known
            total = part.new_zeros(*part.shape[:2], rows, columns)
        total[area] += part
        del part  # before the next window is scored
    assert total is not None
    covered = torch.outer(_covered(rows, tops, height), _covered(columns, lefts, width))
    return total.div_(covered.to(total))


def _covered(length: int, starts: list[int], window: int) -> Tensor:
    """(length,) how many windows each place of a side lies in."""
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + window] += 1
    return counts
