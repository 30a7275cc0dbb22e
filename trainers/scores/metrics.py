"""Confusion matrix of label maps, and the scores that are read off it and off the counts of boundaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ignite.metrics import ConfusionMatrix
from ignite.metrics.metric import reinit__is_reduced
from torch import Tensor

from trainers.scores.boundary import BoundaryCounts


class LabelConfusionMatrix(ConfusionMatrix):
    """Ignite's confusion matrix for label maps instead of (B,K,H,W) scores.

    ``update`` takes (prediction, labels), both (B,H,W) int64. Pixels whose label is no class id, such as 255,
    do not count. ``compute`` gives (K,K) int64, summed over all processes; rows are labels, columns
    predictions.

    Args:
        num_classes: K.
        device: where the counts are kept; that of the label maps saves copies.
    """

    def __init__(self, num_classes: int, *, device: torch.device | str = "cpu", **kwargs: Any) -> None:
        super().__init__(num_classes, device=device, **kwargs)

    @reinit__is_reduced
    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Count the pixels of one batch.

        Raises:
            ValueError: prediction and labels differ in shape.
        """
        prediction, labels = (tensor.detach() for tensor in output)
        if prediction.shape != labels.shape:
            raise ValueError(
                f"Prediction and labels must be label maps of one shape, but are {tuple(prediction.shape)} "
                f"and {tuple(labels.shape)}; crop padded predictions and take the argmax of scores first."
            )
        self._num_examples += labels.shape[0]
        valid = (labels >= 0) & (labels < self.num_classes)
        cells = labels[valid] * self.num_classes + prediction[valid]
        counts = torch.bincount(cells, minlength=self.num_classes**2)
        self.confusion_matrix += counts.view(self.num_classes, self.num_classes).to(self.confusion_matrix)


@dataclass(frozen=True)
class SegmentationScores:
    """How good the predictions of a dataset are, each in [0,1]; NaN where no pixel counts.

    Attributes:
        mean_iou: mean of the IoU over the classes that occur in the labels or in the prediction.
        frequency_weighted_iou: mean of the IoU, each class weighted with its share of the labels.
        pixel_accuracy: share of the pixels that are predicted right.
        boundary_iou: mean of `BoundaryCounts.iou` over the classes that it is known of.
        boundary_f_score: mean of `BoundaryCounts.f_score` over the classes that it is known of.
        class_iou: IoU of each of the K classes, None where the class occurs in neither.
        class_boundary_iou: the same of the boundary IoU.
        class_boundary_f_score: the same of the boundary F-score.
    """

    mean_iou: float
    frequency_weighted_iou: float
    pixel_accuracy: float
    boundary_iou: float
    boundary_f_score: float
    class_iou: tuple[float | None, ...]
    class_boundary_iou: tuple[float | None, ...]
    class_boundary_f_score: tuple[float | None, ...]

    @property
    def coverage(self) -> str:
        """Over how many classes ``mean_iou`` is the mean, where some occur nowhere; empty where all occur."""
        known = sum(iou is not None for iou in self.class_iou)
        return "" if known == len(self.class_iou) else f" over {known} of {len(self.class_iou)} classes"

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The scores as JSON values, null for NaN, the classes by name."""
        return {
            name: _known(value) if isinstance(value, float) else dict(zip(class_names, value, strict=True))
            for name, value in vars(self).items()
        }


def class_iou(confusion: Tensor) -> Tensor:
    """IoU (K,) float64 of the classes in a confusion matrix (K,K); NaN of those that occur nowhere."""
    counts = confusion.double()
    hits = counts.diagonal()
    return hits / (counts.sum(0) + counts.sum(1) - hits)


def segmentation_scores(confusion: Tensor, boundaries: BoundaryCounts) -> SegmentationScores:
    """Read the scores off the counts.

    Args:
        confusion: (K,K) counts, rows are labels, columns predictions.
        boundaries: counts of the same pixels.
    """
    counts = confusion.to("cpu", torch.float64)
    hits, occurrences, iou = counts.diagonal(), counts.sum(1), class_iou(counts)
    boundary_iou, boundary_f_score = boundaries.iou().cpu(), boundaries.f_score().cpu()
    return SegmentationScores(
        mean_iou=iou.nanmean().item(),
        frequency_weighted_iou=((occurrences * iou).nansum() / occurrences.sum()).item(),
        pixel_accuracy=(hits.sum() / counts.sum()).item(),
        boundary_iou=boundary_iou.nanmean().item(),
        boundary_f_score=boundary_f_score.nanmean().item(),
        class_iou=_class_scores(iou),
        class_boundary_iou=_class_scores(boundary_iou),
        class_boundary_f_score=_class_scores(boundary_f_score),
    )


def format_scores(scores: SegmentationScores, class_names: Sequence[str]) -> str:
    """The scores as a table for the terminal, one class a line, a dash for what no pixel counts in."""
    columns = (scores.class_iou, scores.class_boundary_iou, scores.class_boundary_f_score)
    means = (scores.mean_iou, scores.boundary_iou, scores.boundary_f_score)
    rows: list[tuple[str, tuple[float | None, ...]]] = list(zip(class_names, zip(*columns, strict=True), strict=True))
    totals = [
        (f"mean{scores.coverage}", means),
        ("frequency-weighted", (scores.frequency_weighted_iou,)),
        ("pixel accuracy", (scores.pixel_accuracy,)),
    ]
    width = max(len(name) for name, _ in [*rows, *totals])
    head = f"{'class':<{width}}     IoU  boundary IoU  boundary F"
    rule = "-" * len(head)
    return "\n".join([head, rule, *(_line(width, *row) for row in rows), rule, *(_line(width, *row) for row in totals)])


def _line(width: int, name: str, values: Sequence[float | None]) -> str:
    known = ["-" if _known(value) is None else f"{value:.4f}" for value in values]
    return f"{name:<{width}}" + "".join(f"{value:>{column}}" for value, column in zip(known, (8, 14, 12), strict=False))


def _class_scores(values: Tensor) -> tuple[float | None, ...]:
    return tuple(_known(value) for value in values.tolist())


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
