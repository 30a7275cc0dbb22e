"""How well the boundaries of the classes are met: counts of pixels that add up over images and processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
import torch.nn.functional as F
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from torch import Tensor

from trainers.scores.counting import count_ids

BAND_SHARE: Final = 0.02
"""Width of the bands of `BoundaryCounts.iou`, as a part of the image's diagonal: that of Cheng et al."""
TOLERANCE_SHARE: Final = 0.0075
"""How far a contour may lie off for `BoundaryCounts.f_score`, as a part of the diagonal: that of Csurka et al."""

IGNORED: Final = -1
OUTSIDE: Final = torch.iinfo(torch.int16).max
_BEYOND: Final = 2**62
"""In place of a place: beyond all of them."""


@dataclass(frozen=True)
class BoundaryCounts:
    """Pixels at the boundaries of K classes, each (K,) int64, summed over a dataset.

    Attributes:
        label_band: pixels of the class in the labels that lie near its contour.
        predicted_band: the same of the prediction.
        common_band: pixels that are in both.
        label_contour: pixels of the class in the labels with a neighbour of another class.
        found_contour: those that have a pixel of the predicted contour of the class near them.
        predicted_contour: pixels of the class in the prediction with a neighbour of another class.
        right_contour: those that have a pixel of the contour of the class in the labels near them.
    """

    label_band: Tensor
    predicted_band: Tensor
    common_band: Tensor
    label_contour: Tensor
    found_contour: Tensor
    predicted_contour: Tensor
    right_contour: Tensor

    def iou(self) -> Tensor:
        """Boundary IoU (K,) float64 in [0,1]; NaN where a class occurs in neither labels nor prediction.

        Cheng, Girshick, Dollár, Berg, Kirillov: "Boundary IoU: Improving Object-Centric Image Segmentation
        Evaluation", CVPR 2021. As in their code, a band is as wide as 2 % of the diagonal (1 pixel at least),
        distances are the larger of rows and columns, and the edge of the image is a contour.
        """
        return self.common_band.double() / (self.label_band + self.predicted_band - self.common_band)

    def f_score(self) -> Tensor:
        """Boundary F-score (K,) float64 in [0,1]; NaN where the labels show no contour of a class.

        Csurka, Larlus, Perronnin: "What is a good evaluation measure for semantic segmentation?", BMVC 2013: the
        harmonic mean of precision and recall of contour pixels, within 0.75 % of the diagonal (1 pixel at least) in
        Euclidean distance. They average over images; here, as with the IoU, the pixels of all images count together.
        The edge of the image is no contour.
        """
        precision = (self.right_contour.double() / self.predicted_contour).nan_to_num()
        recall = (self.found_contour.double() / self.label_contour).nan_to_num()
        score = (2 * precision * recall / (precision + recall)).nan_to_num()
        # Labels that leave all outlines unlabelled, as some do, say nothing about contours.
        return score.masked_fill(self.label_contour == 0, math.nan)


class BoundaryMetric(Metric):
    """Counts boundaries in label maps; ``compute`` gives `BoundaryCounts`, summed over all processes.

    Pixels whose label is no class id, such as 255, count as whatever is beside them: what was predicted for them
    does not matter, and no contour runs along them.

    Args:
        num_classes: K, below 32767.
        device: where the counts are kept; that of the label maps saves copies.
    """

    def __init__(self, num_classes: int, *, device: torch.device | str = "cpu", **kwargs: Any) -> None:
        self.num_classes = num_classes
        super().__init__(device=device, **kwargs)

    @reinit__is_reduced
    def reset(self) -> None:
        """Start from nothing."""
        self._counts = torch.zeros(len(fields(BoundaryCounts)), self.num_classes, dtype=torch.int64).to(self._device)

    @reinit__is_reduced
    def update(self, output: tuple[Tensor, Tensor, tuple[tuple[int, int], ...]]) -> None:
        """Count one batch: prediction and labels (B,H,W) int64, and the (height, width) of each without padding."""
        for prediction, labels, (height, width) in zip(*output, strict=True):
            image = prediction[:height, :width], labels[:height, :width]
            self._counts += count_boundaries(*image, num_classes=self.num_classes).to(self._device)

    @sync_all_reduce("_counts")
    def compute(self) -> BoundaryCounts:
        """The counts of all batches."""
        return BoundaryCounts(*self._counts.unbind())


def count_boundaries(prediction: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """(7,K) int64 counts of one image, in the order of `BoundaryCounts`.

    All classes are looked at together: nothing is of size K·H·W, and K costs nothing. One core of a CPU takes about
    10 ms for 360x480 pixels and 0.3 s for 1024x2048; of the latter, seconds where the prediction is noise. A GPU is
    waited for once, to know how many pixels the contours have.

    Args:
        prediction: (H,W) int64 class ids.
        labels: (H,W) int64 class ids; any other label is ignored.
        num_classes: K.
    """
    diagonal = math.hypot(*labels.shape)
    width = max(1, round(BAND_SHARE * diagonal))
    tolerance = max(1.0, TOLERANCE_SHARE * diagonal)
    ignored = (labels < 0) | (labels >= num_classes)
    truth, guess = (ids.to(torch.int16).masked_fill(ignored, IGNORED) for ids in (labels, prediction))

    truth_band, guess_band = near_contour(truth, width), near_contour(guess, width)
    truth_contour = truth.masked_fill(~contour(truth), IGNORED)
    guess_contour = guess.masked_fill(~contour(guess), IGNORED)
    found_contour, right_contour = _near_each_other(truth_contour, guess_contour, tolerance)
    counted = (
        (truth, truth_band),
        (guess, guess_band),
        (truth, truth_band & guess_band & (truth == guess)),
        (truth_contour, truth_contour != IGNORED),
        found_contour,
        (guess_contour, guess_contour != IGNORED),
        right_contour,
    )
    return torch.stack([count_ids(ids, where, num_classes) for ids, where in counted])


def near_contour(ids: Tensor, width: int) -> Tensor:
    """(H,W) bool: pixels with another class, or the edge of the image, no more than ``width`` rows and columns away.

    Args:
        ids: (H,W) int16 class ids, ``IGNORED`` where there is none.
        width: in pixels.
    """
    ignored = ids == IGNORED
    # A pixel lies inside of its class where the square around it holds one class and nothing else.
    highest = _highest(ids, width)
    lowest = -_highest(-ids.masked_fill(ignored, OUTSIDE), width)
    return (highest != lowest) & ~ignored


def contour(ids: Tensor) -> Tensor:
    """(H,W) bool: pixels with a neighbour of another class above, below, to the left or to the right.

    Args:
        ids: (H,W) int16 class ids, ``IGNORED`` where there is none.
    """
    result = torch.zeros_like(ids, dtype=torch.bool)
    for dim in (0, 1):
        steps = max(ids.shape[dim] - 1, 0)
        first, second = ids.narrow(dim, 0, steps), ids.narrow(dim, 1, steps)
        differ = (first != second) & (first != IGNORED) & (second != IGNORED)
        result.narrow(dim, 0, steps).logical_or_(differ)
        result.narrow(dim, 1, steps).logical_or_(differ)
    return result


def _highest(ids: Tensor, radius: int) -> Tensor:
    """The largest value in the square of 2·radius + 1 pixels around each; beyond the image lies ``OUTSIDE``."""
    ids = F.pad(ids, (radius,) * 4, value=OUTSIDE)
    for dim in (0, 1):
        size, window = 1, 2 * radius + 1
        while size < window:  # windows grow to twice their size: a step for each power of two, not for each pixel
            step = min(size, window - size)
            length = ids.shape[dim] - step
            ids = torch.maximum(ids.narrow(dim, 0, length), ids.narrow(dim, step, length))
            size += step
    return ids


def _near_each_other(first: Tensor, second: Tensor, tolerance: float) -> list[tuple[Tensor, Tensor]]:
    """Of each of two contours the class ids (N,) of pixels, and which have their own id in the other near them.

    Args:
        first: (H,W) int16 class ids on the contour, ``IGNORED`` elsewhere.
        second: the same of the other contour.
        tolerance: how far that is, in pixels.
    """
    # Rows and classes lie apart, so that what is beyond the end of one is not taken for the next.
    height, width = (side + int(tolerance) for side in first.shape)
    places = _places(first, second, height, width)
    near = [_near(sought, others, width, tolerance) for sought, others in (places, places[::-1])]
    return [(sought // (height * width), found) for sought, found in near]


def _places(first: Tensor, second: Tensor, height: int, width: int) -> list[Tensor]:
    """A number for each pixel of a contour, of two of them: those of a row and class lie side by side."""
    contours = (first, second)
    if first.device.type == "cpu":
        pixels = [(ids != IGNORED).nonzero(as_tuple=True) for ids in contours]
        return [
            (ids[rows, columns].long() * height + rows) * width + columns
            for ids, (rows, columns) in zip(contours, pixels, strict=True)
        ]
    rows, columns = (torch.arange(side, device=first.device) for side in first.shape)
    every = [
        ((ids.long() * height + rows[:, None]) * width + columns).masked_fill(ids == IGNORED, _BEYOND).flatten()
        for ids in contours
    ]
    numbers = torch.stack([(ids != IGNORED).sum() for ids in contours]).tolist()
    return [places.sort().values[:number] for places, number in zip(every, numbers, strict=True)]


def _near(sought: Tensor, others: Tensor, width: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Places (N,) of one contour, and which have one of the other within ``tolerance``; on a CPU those alone."""
    others = F.pad(others.sort().values, (0, 1), value=_BEYOND)  # so that there always is a next one
    radius, near = int(tolerance), []
    anywhere = torch.zeros_like(sought, dtype=torch.bool)
    for down in sorted(range(-radius, radius + 1), key=abs):  # most are found in the first rows
        half = math.isqrt(int(tolerance**2 - down**2))
        start = sought + down * width - half
        found = others[torch.searchsorted(others, start)] <= start + 2 * half
        if sought.device.type != "cpu":  # a GPU would be waited for, to be spared little
            anywhere |= found
            continue
        near.append(sought[found])
        sought = sought[~found]
    if sought.device.type != "cpu":
        return sought, anywhere
    places = torch.cat(near)
    return places, torch.ones_like(places, dtype=torch.bool)
