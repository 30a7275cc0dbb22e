"""Scores of several data sets, each by its own classes, and what they come to together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, Self

from trainers.scores.metrics import SegmentationScores, format_scores

ONLY: Final = ""
"""The name of a data set that is the only one."""
TOTALS: Final = {
    "mean_iou": "mean IoU",
    "boundary_iou": "mean boundary IoU",
    "boundary_f_score": "mean boundary F",
    "frequency_weighted_iou": "frequency-weighted",
    "pixel_accuracy": "pixel accuracy",
}
"""Scores that are one number, and what tables call them."""


@dataclass(frozen=True)
class SetScores:
    """Scores on one data set.

    Attributes:
        class_names: its own K names in the order of its label ids.
        scores: of these classes.
    """

    class_names: tuple[str, ...]
    scores: SegmentationScores

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made a dictionary of."""
        return cls(tuple(content["class_names"]), SegmentationScores.from_dict(content["scores"]))


ScoresBySet = Mapping[str, SetScores]
"""The scores of each data set by its name."""


def joint_class_names(sets: ScoresBySet) -> tuple[str, ...]:
    """The names of all sets' classes, in the order in which they appear."""
    return tuple(dict.fromkeys(name for one in sets.values() for name in one.class_names))


def mean_scores(sets: ScoresBySet) -> SegmentationScores:
    """The mean over the sets of each score; of a class, over the sets that have it. Of one set its own scores.

    Args:
        sets: each by its own classes; the result is of `joint_class_names`.
    """
    if len(sets) == 1:
        return next(iter(sets.values())).scores
    names = joint_class_names(sets)

    def mean(total: str) -> float:
        return fmean(getattr(one.scores, total) for one in sets.values())

    def class_means(column: str) -> tuple[float | None, ...]:
        known: dict[str, list[float]] = {name: [] for name in names}
        for one in sets.values():
            for name, value in zip(one.class_names, getattr(one.scores, column), strict=True):
                if value is not None:
                    known[name].append(value)
        return tuple(fmean(values) if values else None for values in known.values())

    return SegmentationScores(
        mean_iou=mean("mean_iou"),
        frequency_weighted_iou=mean("frequency_weighted_iou"),
        pixel_accuracy=mean("pixel_accuracy"),
        boundary_iou=mean("boundary_iou"),
        boundary_f_score=mean("boundary_f_score"),
        class_iou=class_means("class_iou"),
        class_boundary_iou=class_means("class_boundary_iou"),
        class_boundary_f_score=class_means("class_boundary_f_score"),
    )


def format_sets(sets: ScoresBySet) -> str:
    """The table of each data set under its name, and a last one of their means; of an only set its table."""
    if ONLY in sets:
        return format_scores(sets[ONLY].scores, sets[ONLY].class_names)
    tables = [f"{name}:\n{format_scores(one.scores, one.class_names)}" for name, one in sets.items()]
    return "\n\n".join([*tables, _summary(sets)] if len(sets) > 1 else tables)


def _summary(sets: ScoresBySet) -> str:
    columns = {**{name: one.scores for name, one in sets.items()}, "mean of the sets": mean_scores(sets)}
    width = max(map(len, columns))
    titles = list(TOTALS.values())
    head = f"{'data set':<{width}}" + "".join(f"{title:>{len(title) + 2}}" for title in titles)
    lines = [head, "-" * len(head)]
    for name, scores in columns.items():
        values = (getattr(scores, total) for total in TOTALS)
        cells = (
            f"{'-' if math.isnan(value) else f'{100 * value:.1f}':>{len(title) + 2}}"
            for value, title in zip(values, titles, strict=True)
        )
        lines.append(f"{name:<{width}}{''.join(cells)}")
    return "\n".join(lines)


def sets_to_dict(sets: ScoresBySet) -> dict[str, Any]:
    """The scores as JSON values: their means, and each set's under its name; of an only set its own."""
    scores = mean_scores(sets)
    content = scores.to_dict(joint_class_names(sets))
    if ONLY in sets:
        return content
    return content | {"sets": {name: one.scores.to_dict(one.class_names) for name, one in sets.items()}}
