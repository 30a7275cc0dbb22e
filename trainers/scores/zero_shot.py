"""How well classes are told that training never saw, beside those that it saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ZeroShotScores:
    """Scores of seen and of unseen classes, each in [0,1]; NaN where no pixel counts.

    Attributes:
        unseen: label ids of the unseen classes.
        seen_mean_iou: mean of the IoU over the seen classes, where all classes may be predicted (generalised).
        unseen_mean_iou: the same over the unseen classes.
        harmonic_mean_iou: the harmonic mean of the two, hIoU.
        unseen_alone_mean_iou: mean of the IoU over the unseen classes, where they alone may be predicted, on their
            pixels.
    """

    unseen: tuple[int, ...]
    seen_mean_iou: float
    unseen_mean_iou: float
    harmonic_mean_iou: float
    unseen_alone_mean_iou: float

    def named(self) -> dict[str, float]:
        """The scores as reports call them."""
        return {
            "mean of seen": self.seen_mean_iou,
            "mean of unseen": self.unseen_mean_iou,
            "harmonic mean": self.harmonic_mean_iou,
            "unseen among themselves": self.unseen_alone_mean_iou,
        }

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The scores as JSON values, null for NaN, the unseen classes by name."""
        scores = {name: known(value) for name, value in vars(self).items() if name != "unseen"}
        return {"unseen": [class_names[label] for label in self.unseen], **scores}


def zero_shot_scores(class_iou: Tensor, unseen_alone_iou: Tensor, unseen: Sequence[int]) -> ZeroShotScores:
    """The means of scores of single classes, without those that occur nowhere.

    Args:
        class_iou: (K,) of all classes, NaN of those that occur nowhere.
        unseen_alone_iou: (U,) of the unseen classes among themselves, likewise.
        unseen: label ids of the U unseen classes.
    """
    seen_mean, unseen_mean, harmonic = seen_and_unseen(class_iou, unseen)
    return ZeroShotScores(
        unseen=tuple(unseen),
        seen_mean_iou=seen_mean,
        unseen_mean_iou=unseen_mean,
        harmonic_mean_iou=harmonic,
        unseen_alone_mean_iou=unseen_alone_iou.nanmean().item(),
    )


def seen_and_unseen(class_iou: Tensor, unseen: Sequence[int]) -> tuple[float, float, float]:
    """Mean over the seen, over the unseen, and the harmonic mean of the two; see `zero_shot_scores`."""
    is_unseen = torch.zeros(len(class_iou), dtype=torch.bool)
    is_unseen[list(unseen)] = True
    means = class_iou[~is_unseen].nanmean().item(), class_iou[is_unseen].nanmean().item()
    return *means, harmonic_mean(*means)


def known(value: float | None) -> float | None:
    """The value, ``None`` for NaN."""
    return None if value is None or math.isnan(value) else value


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b) of two scores; 0 where both are."""
    return 2 * first * second / (first + second) if first or second else 0.0
