"""Confusion matrix of label maps, and the scores that are read off it and off the counts of boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from ignite.metrics import ConfusionMatrix
from ignite.metrics.metric import reinit__is_reduced
from torch import Tensor

from trainers.scores.boundary import BoundaryCounts
from trainers.scores.counting import count_ids
from trainers.scores.zero_shot import ZeroShotScores, known, zero_shot_scores


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
        counts = count_ids(labels.long() * self.num_classes + prediction, valid, self.num_classes**2)
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
        zero_shot: the same of seen and unseen classes; ``None`` where all classes are trained on.
    """

    mean_iou: float
    frequency_weighted_iou: float
    pixel_accuracy: float
    boundary_iou: float
    boundary_f_score: float
    class_iou: tuple[float | None, ...]
    class_boundary_iou: tuple[float | None, ...]
    class_boundary_f_score: tuple[float | None, ...]
    zero_shot: ZeroShotScores | None = None

    @property
    def decisive(self) -> float:
        """What the best model is the best in: mean IoU, or where there are unseen classes hIoU."""
        return self.mean_iou if self.zero_shot is None else self.zero_shot.harmonic_mean_iou

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made a dictionary of."""
        zero_shot = content.get("zero_shot")
        return cls(**content | {"zero_shot": None if zero_shot is None else ZeroShotScores(**zero_shot)})

    @property
    def coverage(self) -> str:
        """Over how many classes ``mean_iou`` is the mean, where some occur nowhere; empty where all occur."""
        known = sum(iou is not None for iou in self.class_iou)
        return "" if known == len(self.class_iou) else f" over {known} of {len(self.class_iou)} classes"

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The scores as JSON values, null for NaN, the classes by name."""
        scores: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, float):
                scores[name] = known(value)
            elif isinstance(value, tuple):
                scores[name] = dict(zip(class_names, value, strict=True))
            elif value is not None:
                scores[name] = value.to_dict(class_names)
        return scores


def class_iou(confusion: Tensor) -> Tensor:
    """IoU (K,) float64 of the classes in a confusion matrix (K,K); NaN of those that occur nowhere."""
    counts = confusion.double()
    hits = counts.diagonal()
    return hits / (counts.sum(0) + counts.sum(1) - hits)


def segmentation_scores(
    confusion: Tensor, boundaries: BoundaryCounts, *, unseen_alone: Tensor | None = None, unseen: Sequence[int] = ()
) -> SegmentationScores:
    """Read the scores off the counts.

    Args:
        confusion: (K,K) counts, rows are labels, columns predictions.
        boundaries: counts of the same pixels.
        unseen_alone: (U,U) counts of the unseen classes among themselves, where there are any.
        unseen: their U label ids.
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
        zero_shot=None if unseen_alone is None else zero_shot_scores(iou, class_iou(unseen_alone.cpu()), unseen),
    )


def format_scores(scores: SegmentationScores, class_names: Sequence[str]) -> str:
    """The scores as a table for the terminal, in %, one class a line, a dash for what no pixel counts in."""
    columns = (scores.class_iou, scores.class_boundary_iou, scores.class_boundary_f_score)
    means = (scores.mean_iou, scores.boundary_iou, scores.boundary_f_score)
    unseen = set() if scores.zero_shot is None else {class_names[label] for label in scores.zero_shot.unseen}
    labels = [f"{name} (unseen)" if name in unseen else name for name in class_names]
    rows: list[tuple[str, tuple[float | None, ...]]] = list(zip(labels, zip(*columns, strict=True), strict=True))
    zero_shot = {} if scores.zero_shot is None else scores.zero_shot.named()
    totals = [
        (f"mean{scores.coverage}", means),
        *((name, (value,)) for name, value in zero_shot.items()),
        ("frequency-weighted", (scores.frequency_weighted_iou,)),
        ("pixel accuracy", (scores.pixel_accuracy,)),
    ]
    width = max(len(name) for name, _ in [*rows, *totals])
    head = f"{'class, in %':<{width}}     IoU  boundary IoU  boundary F"
    rule = "-" * len(head)
    return "\n".join([head, rule, *(_line(width, *row) for row in rows), rule, *(_line(width, *row) for row in totals)])


def _line(width: int, name: str, values: Sequence[float | None]) -> str:
    texts = ["-" if (score := known(value)) is None else f"{100 * score:.1f}" for value in values]
    return f"{name:<{width}}" + "".join(f"{text:>{column}}" for text, column in zip(texts, (8, 14, 12), strict=False))


def _class_scores(values: Tensor) -> tuple[float | None, ...]:
    return tuple(known(value) for value in values.tolist())
