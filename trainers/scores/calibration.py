"""Scores of seen and unseen classes for many calibrations at once, from scores that were computed once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from trainers.scores.metrics import class_iou
from trainers.scores.zero_shot import seen_and_unseen

CALIBRATIONS: Final = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0)
"""What may be taken off the logits of trained classes; the larger, the coarser."""


@dataclass(frozen=True)
class CalibrationPoint:
    """What one calibration gives, see `trainers.scores.zero_shot.ZeroShotScores`."""

    calibration: float
    seen_mean_iou: float
    unseen_mean_iou: float
    harmonic_mean_iou: float


class CalibrationCounts:
    """Confusion matrices of all calibrations, from scores without any.

    A calibration c multiplies the scores of trained classes with exp(-c). So of a pixel the best trained class, the
    best other one, and how far the one is ahead say what it is taken for by all of them: up to some calibration the
    former, and the latter from then on.

    Args:
        num_classes: K.
        untrained: label ids of the classes that are not calibrated.
        calibrations: in ascending order.
    """

    def __init__(
        self, num_classes: int, untrained: Sequence[int], calibrations: Sequence[float] = CALIBRATIONS
    ) -> None:
        self.calibrations = tuple(calibrations)
        self._untrained = torch.zeros(num_classes, dtype=torch.bool)
        self._untrained[list(untrained)] = True
        # By the number of calibrations that leave a pixel to its trained class: what that class is, and what the other.
        self._counts = torch.zeros(2, len(calibrations) + 1, num_classes, num_classes, dtype=torch.int64)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Counts pixels.

        Args:
            scores: (B, K, H, W), not calibrated.
            labels: (B, H, W) class ids; all others are ignored.
        """
        num_classes = len(self._untrained)
        untrained = self._untrained.to(scores.device)[:, None, None]
        trained = scores.masked_fill(untrained, -1).max(1)
        other = scores.masked_fill(~untrained, -1).max(1)
        left = torch.stack([trained.values * math.exp(-c) >= other.values for c in self.calibrations]).sum(0)
        valid = (labels >= 0) & (labels < num_classes)
        for counts, best in zip(self._counts, (trained.indices, other.indices), strict=True):
            cells = (left[valid] * num_classes + labels[valid]) * num_classes + best[valid]
            counts += torch.bincount(cells, minlength=counts.numel()).view_as(counts).cpu()

    def __add__(self, other: CalibrationCounts) -> CalibrationCounts:
        """The counts of the pixels of both, which have the same classes and calibrations."""
        both = CalibrationCounts(len(self._untrained), self._untrained.nonzero().flatten().tolist(), self.calibrations)
        both._counts = self._counts + other._counts
        return both

    def confusions(self) -> Tensor:
        """(C, K, K) int64, one for each calibration; rows are labels, columns predictions."""
        trained, other = self._counts
        # The i-th calibration leaves pixels to their trained class that more than i calibrations do.
        left = trained.flip(0).cumsum(0).flip(0)[1:]
        return left + other.cumsum(0)[:-1]

    def trained_alone(self) -> Tensor:
        """(K, K) int64: the confusion of trained classes among themselves, on their pixels."""
        return self._counts[0].sum(0) * ~self._untrained[:, None]

    def untrained_alone(self) -> Tensor:
        """(K, K) int64: the confusion of the classes that are not calibrated among themselves, on their pixels."""
        return self._counts[1].sum(0) * self._untrained[:, None]

    def curve(self, unseen: Sequence[int]) -> tuple[CalibrationPoint, ...]:
        """The scores by calibration.

        Args:
            unseen: label ids of the unseen classes.
        """
        return tuple(
            CalibrationPoint(calibration, *seen_and_unseen(class_iou(confusion), unseen))
            for calibration, confusion in zip(self.calibrations, self.confusions(), strict=True)
        )
