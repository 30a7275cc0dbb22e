"""Scores of an image from windows, scales and mirrored images, strip by strip: never those of the whole image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from trainers.engine.resampling import resized_rows
from trainers.engine.windows import Scorer, slide

STRIP_PIXELS = 2**20
"""Pixels of the strips that scores are averaged in: an image that has fewer is looked at one view after the other."""


def score_strips(
    scores: Scorer,
    images: Tensor,
    load: Callable[[Tensor], Tensor],
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    scales: Sequence[float],
    flip: bool,
) -> Iterator[Tensor]:
    """The mean of the scores of all views, each looked at through windows, and brought back to the image.

    Of the images some rows are loaded at a time. Of each view, sums of scores of one row of windows are kept from one
    strip to the next.

    Args:
        scores: Gives the scores of a window.
        images: (B, C, H, W), wherever and however they are stored.
        load: Brings rows of them to where, and into the form in which, they are scored.
        window: Height and width of a window.
        stride: Pixels from one window to the next, down and to the right.
        scales: Factors that the images are resized by; shrinking averages over the pixels that fall together.
        flip: Whether each of them is also looked at mirrored left to right.

    Yields:
        (B, K, rows, W) scores of the next rows, from the first to the last one of the images.
    """
    count, _, height, width = images.shape
    views = [
        _View(scores, images, load, scale=scale, mirrored=mirrored, window=window, stride=stride)
        for scale, mirrored in product(scales, (False, True) if flip else (False,))
    ]
    step = max(1, STRIP_PIXELS // (count * width))
    for top in range(0, height, step):
        total: Tensor | None = None
        for view in views:
            part = view.take(top, min(top + step, height))
            total = part if total is None else total.add_(part)
            del part  # before the next view is scored
        assert total is not None
        yield total.div_(len(views))


class _View:
    """The scores of images that are resized, and perhaps mirrored: made when they are asked for, from the top down."""

    def __init__(
        self,
        scores: Scorer,
        images: Tensor,
        load: Callable[[Tensor], Tensor],
        *,
        scale: float,
        mirrored: bool,
        window: tuple[int, int],
        stride: tuple[int, int],
    ) -> None:
        height, width = images.shape[-2:]
        self._image_size = (height, width)
        self._size = max(1, round(height * scale)), max(1, round(width * scale))

        def mirror(rows: Tensor) -> Tensor:
            return rows.flip(-1) if mirrored else rows

        def read(first: int, last: int) -> Tensor:
            return load(images[:, :, first:last])

        def view(first: int, last: int) -> Tensor:
            return mirror(resized_rows(read, self._image_size, self._size, (first, last), antialias=True))

        self._strips: Iterator[Tensor] = map(mirror, slide(scores, view, self._size, window=window, stride=stride))
        self._held: list[Tensor] = []  # rows that were made
        self._first = 0  # of these

    def take(self, top: int, bottom: int) -> Tensor:
        """The scores (B, K, bottom - top, W) of rows of the images; each row is asked for once, from the top down."""
        taken = resized_rows(self._rows, self._size, self._image_size, (top, bottom), antialias=False)
        if bottom == self._image_size[0]:
            self._strips, self._held = iter(()), []  # with all that they hold
        return taken

    def _rows(self, first: int, last: int) -> Tensor:
        """Rows of the view's scores; none before ``first`` is asked for again."""
        while self._first + sum(strip.shape[2] for strip in self._held) < last:
            self._held.append(next(self._strips))
        held = torch.cat(self._held, 2) if len(self._held) > 1 else self._held[0]
        self._held, self._first = [held[:, :, first - self._first :]], first
        return self._held[0][:, :, : last - first]
