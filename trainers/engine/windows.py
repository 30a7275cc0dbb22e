"""Scores of an image from windows that slide over it, from the top down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

Scorer = Callable[[Tensor], Tensor]
"""Gives the scores (B, K, H, W) of images (B, C, H, W), of any size, as a tensor that nothing else holds."""
Rows = Callable[[int, int], Tensor]
"""Gives the rows of images or of scores from a first one to before a last one, (B, C, rows, W)."""


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


def slide(
    scores: Scorer, rows: Rows, size: tuple[int, int], *, window: tuple[int, int], stride: tuple[int, int]
) -> Iterator[Tensor]:
    """The mean of the scores of all windows that a pixel lies in, where the windows lie as in mmsegmentation.

    Scores are summed for one row of windows at a time, and given away where no later window reaches.

    Args:
        scores: Gives the scores of a window.
        rows: Gives rows of the images; as many as a window is high are asked for at a time.
        size: Height and width of the images, of any size.
        window: Height and width of a window.
        stride: Pixels from one window to the next, down and to the right; at most the window, or pixels have none.

    Yields:
        (B, K, rows, W) scores of the next rows, from the first to the last one of the images.
    """
    height, width = min(window[0], size[0]), window[1]
    tops = window_starts(size[0], window=window[0], stride=stride[0])
    lefts = window_starts(size[1], window=width, stride=stride[1])
    covered_down, covered_right = _covered(size[0], tops, height), _covered(size[1], lefts, width)
    begun: Tensor | None = None  # sums of the rows that the windows above reach, too
    for top, following in pairwise([*tops, size[0]]):
        band = rows(top, top + height)
        total: Tensor | None = None
        for left in lefts:
            area = (..., slice(left, left + width))
            part = scores(band[area])
            if total is None:  # only now is the number of classes known
                total = part.new_zeros(*part.shape[:2], height, size[1])
                if begun is not None:
                    total[:, :, : begun.shape[2]] = begun
            total[area] += part
            del part  # before the next window is scored
        assert total is not None
        done = following - top
        begun = total[:, :, done:].clone()
        yield total[:, :, :done].div_(torch.outer(covered_down[top:following], covered_right).to(total))


def _covered(length: int, starts: list[int], window: int) -> Tensor:
    """(length,) how many windows each place of a side lies in."""
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + window] += 1
    return counts
