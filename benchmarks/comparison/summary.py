"""The trainings of a comparison, drawn together over their seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scipy.stats import t as student

from benchmarks.comparison.records import Costs, Record


@dataclass(frozen=True)
class Spread:
    """Numbers of several seeds.

    Attributes:
        values: one of each seed, in the order of the seeds.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Their sample standard deviation; NaN of a single one, or where one is NaN."""
        known = len(self.values) > 1 and not any(math.isnan(value) for value in self.values)
        return statistics.stdev(self.values) if known else math.nan

    @property
    def half_interval(self) -> float:
        """Half the width of the 95 % interval of the mean, by Student's t; NaN of a single value."""
        count = len(self.values)
        return float(student.ppf(0.975, count - 1)) * self.deviation / math.sqrt(count) if count > 1 else math.nan

    def minus(self, other: Spread) -> Spread:
        """Differences of the same seeds, whose data come in the same order.

        Raises:
            ValueError: The numbers of seeds differ.
        """
        return Spread(tuple(own - its for own, its in zip(self.values, other.values, strict=True)))

    def __str__(self) -> str:
        """In points, as mean ± standard deviation."""
        return _points(self.mean, self.deviation)

    def difference(self) -> str:
        """In points with a sign, as mean ± half of the 95 % interval."""
        return _points(self.mean, self.half_interval, sign="+")


@dataclass(frozen=True)
class Row:
    """A contender on an encoder, over its seeds.

    Attributes:
        contender: its name.
        encoder: name of its encoder and of the weights that it started with.
        seeds: in rising order.
        mean_iou: of each seed, over the classes that the validation images show.
        boundary_iou: of each seed, as its training has it: over all classes that are shown or predicted.
        class_iou: mean over the seeds by class, ``None`` where no validation image shows it.
        groups: mean IoU over groups of classes by name of the group, e.g. "tail".
        curve: (iteration, mean IoU, mean over the seeds) of the validations.
        costs: what the model costs; ``None`` where that was not measured.
        machines: that trained, in words, each once.
    """

    contender: str
    encoder: str
    seeds: tuple[int, ...]
    mean_iou: Spread
    boundary_iou: Spread
    class_iou: Mapping[str, float | None]
    groups: Mapping[str, Spread] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    costs: Costs | None = None
    machines: tuple[str, ...] = ()


def summarize(
    records: Sequence[Record],
    *,
    classes: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    costs: Mapping[tuple[str, str], Costs],
) -> list[Row]:
    """One row for each contender and encoder, in the order in which they first occur.

    Args:
        records: of all seeds.
        classes: names of those that means are over. A class that no validation image shows would count as 0 for a
            model that predicts it somewhere, and not at all for others.
        groups: names of classes by name of the group.
        costs: by contender and encoder.
    """
    gathered: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        gathered.setdefault((record.contender, record.encoder), []).append(record)
    return [
        _row(sorted(of_seeds, key=lambda record: record.seed), classes, groups, costs.get(key))
        for key, of_seeds in gathered.items()
    ]


def _row(
    records: Sequence[Record], classes: Sequence[str], groups: Mapping[str, Sequence[str]], costs: Costs | None
) -> Row:
    first = records[0]
    scores = [record.scores for record in records]
    return Row(
        contender=first.contender,
        encoder=first.encoder,
        seeds=tuple(record.seed for record in records),
        mean_iou=_spread([of_seed.mean_over(classes) for of_seed in scores]),
        boundary_iou=_spread([of_seed.boundary_iou for of_seed in scores]),
        class_iou={
            name: _mean([of_seed.class_iou[name] for of_seed in scores]) if name in classes else None
            for name in first.scores.class_iou
        },
        groups={
            group: _spread([of_seed.mean_over(names) for of_seed in scores]) for group, names in groups.items() if names
        },
        curve=tuple(
            (points[0][0], statistics.fmean(value for _, value in points))
            for points in zip(*(record.curve for record in records), strict=False)
        ),
        costs=costs,
        machines=tuple(dict.fromkeys(record.machine for record in records)),
    )


def _spread(values: Sequence[float | None]) -> Spread:
    return Spread(tuple(math.nan if value is None else value for value in values))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _points(mean: float, spread: float, *, sign: str = "") -> str:
    text = f"{100 * mean:{sign}.1f}"
    return text if math.isnan(spread) else f"{text} ± {100 * spread:.1f}"
