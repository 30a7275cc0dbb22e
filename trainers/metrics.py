"""Confusion matrix of label maps, and the scores that are read off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ignite.metrics import ConfusionMatrix
from ignite.metrics.metric import reinit__is_reduced
from torch import Tensor


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
    """What a confusion matrix says, each in [0,1]; NaN where no pixel counts.

    Attributes:
        mean_iou: mean of the IoU over the classes that occur in the labels or in the prediction.
        class_iou: IoU of each of the K classes, None where the class occurs in neither.
        pixel_accuracy: share of the pixels that are predicted right.
    """

    mean_iou: float
    class_iou: tuple[float | None, ...]
    pixel_accuracy: float

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The scores as JSON values, the classes by name."""
        return {
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "class_iou": dict(zip(class_names, self.class_iou, strict=True)),
        }


def segmentation_scores(confusion: Tensor) -> SegmentationScores:
    """Read the scores off a confusion matrix.

    Args:
        confusion: (K,K) counts, rows are labels, columns predictions.
    """
    counts = confusion.to("cpu", torch.float64)
    hits = counts.diagonal()
    unions = counts.sum(0) + counts.sum(1) - hits
    iou = hits / unions  # 0/0 is NaN: the class occurs nowhere
    return SegmentationScores(
        mean_iou=iou.nanmean().item(),
        class_iou=tuple(None if value != value else value for value in iou.tolist()),
        pixel_accuracy=(hits.sum() / counts.sum()).item(),
    )


def format_scores(scores: SegmentationScores, class_names: Sequence[str]) -> str:
    """The scores as a table for the terminal, one class a line, a dash for a class that occurs nowhere."""
    rows = [
        (name, "-" if iou is None else f"{iou:.4f}") for name, iou in zip(class_names, scores.class_iou, strict=True)
    ]
    totals = [("mean IoU", f"{scores.mean_iou:.4f}"), ("pixel accuracy", f"{scores.pixel_accuracy:.4f}")]
    width = max(len(name) for name, _ in [*rows, *totals])
    rule = "-" * (width + 8)
    lines = [f"{name:<{width}}  {value:>6}" for name, value in [("class", "IoU"), *rows, *totals]]
    lines[1:1] = [rule]
    lines[-2:-2] = [rule]
    return "\n".join(lines)
