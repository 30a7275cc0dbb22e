"""The tables of a comparison."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.comparison.page import PageCell, PageColumn, PageTable
from benchmarks.comparison.records import Costs
from benchmarks.comparison.summary import Row, Spread

_MEBIBYTE = 2**20
_PAIRED = (
    "Mean difference in points over the seeds, which see the same crops in the same order, ± half of its 95 % interval "
    "by Student's t."
)


@dataclass(frozen=True)
class _CostColumn:
    """A column of costs.

    Attributes:
        name: its heading.
        value: of a model.
        digits: behind the point.
    """

    name: str
    value: Callable[[Costs], float]
    digits: int

    def cell(self, costs: Costs | None) -> PageCell:
        """Its cell of a model; a dash where nothing was measured."""
        return PageCell("-") if costs is None else _number(self.value(costs), self.digits)


_COSTS = (
    _CostColumn("encoder, M", lambda costs: costs.encoder_parameters / 1e6, 2),
    _CostColumn("decoder, M", lambda costs: costs.decoder_parameters / 1e6, 2),
    _CostColumn("GFLOP", lambda costs: costs.flops / 1e9, 2),
    _CostColumn("image, ms", lambda costs: 1000 * costs.latency, 0),
    _CostColumn("step, s", lambda costs: costs.step_seconds, 2),
    _CostColumn("step, MiB", lambda costs: costs.step_bytes / _MEBIBYTE, 0),
)


def accuracy_table(title: str, rows: Sequence[Row]) -> PageTable:
    """What each contender reaches on each encoder, and what it costs."""
    costs = _COSTS if any(row.costs for row in rows) else ()
    columns = [
        PageColumn("encoder"),
        PageColumn("contender"),
        *(PageColumn(name, numeric=True, best="high") for name in _measures(rows[0])),
        PageColumn("seeds", numeric=True),
        *(PageColumn(column.name, numeric=True, best="low") for column in costs),
    ]
    cells = [
        [
            PageCell(row.encoder),
            PageCell(row.contender),
            *map(_spread, _measures(row).values()),
            PageCell(str(len(row.seeds)), float(len(row.seeds))),
            *(column.cell(row.costs) for column in costs),
        ]
        for row in rows
    ]
    machines = dict.fromkeys(row.costs.machine for row in rows if row.costs)
    return PageTable(title, columns, cells, f"Seconds were measured on {'; '.join(machines)}." if machines else "")


def difference_table(title: str, rows: Sequence[Row], reference: str) -> PageTable:
    """How far a contender is ahead of each other one on the same encoder and seeds, with intervals; then on average.

    Args:
        title: of the table.
        rows: of all contenders; those whose seeds are not the reference's are left out.
        reference: name of the contender that is ahead or behind.
    """
    of_reference = {row.encoder: row for row in rows if row.contender == reference}
    columns = [
        PageColumn("encoder"),
        PageColumn(f"{reference} minus"),
        *(PageColumn(name, numeric=True) for name in _measures(rows[0])),
    ]
    leads = [
        (row, _lead(its, row))
        for row in rows
        if row.contender != reference and (its := of_reference.get(row.encoder)) and its.seeds == row.seeds
    ]
    cells = [
        [PageCell(row.encoder), PageCell(row.contender), *map(_difference, differences)] for row, differences in leads
    ]
    for contender in dict.fromkeys(row.contender for row, _ in leads):
        own = [(row.seeds, differences) for row, differences in leads if row.contender == contender]
        if len(own) > 1 and len({seeds for seeds, _ in own}) == 1:
            means = [_mean(each) for each in zip(*(differences for _, differences in own), strict=True)]
            cells.append([PageCell(f"mean of {len(own)}"), PageCell(contender), *map(_difference, means)])
    return PageTable(title, columns, cells, _PAIRED)


def class_table(title: str, rows: Sequence[Row], *, images: Mapping[str, int]) -> PageTable:
    """IoU of each class, mean over the seeds.

    Args:
        title: of the table.
        rows: of one encoder.
        images: number of training images that show each class.
    """
    columns = [
        PageColumn("class"),
        PageColumn("training images", numeric=True),
        *(PageColumn(row.contender, numeric=True) for row in rows),
    ]
    cells = [
        [
            PageCell(name),
            PageCell(str(images[name]), float(images[name])),
            *(PageCell("-") if (iou := row.class_iou[name]) is None else _number(100 * iou, 1) for row in rows),
        ]
        for name in rows[0].class_iou
    ]
    return PageTable(title, columns, cells, "IoU in %, mean over the seeds; a dash where the class occurs nowhere.")


def _measures(row: Row) -> dict[str, Spread]:
    """What contenders are compared by."""
    return {"mIoU": row.mean_iou, **row.groups, "boundary IoU": row.boundary_iou}


def _lead(row: Row, other: Row) -> list[Spread]:
    """Differences in each measure."""
    return [own.minus(its) for own, its in zip(_measures(row).values(), _measures(other).values(), strict=True)]


def _mean(spreads: Sequence[Spread]) -> Spread:
    """Mean of each seed over several numbers of it."""
    return Spread(tuple(statistics.fmean(of_seed) for of_seed in zip(*(each.values for each in spreads), strict=True)))


def _spread(spread: Spread) -> PageCell:
    return PageCell("-") if math.isnan(spread.mean) else PageCell(str(spread), spread.mean)


def _difference(spread: Spread) -> PageCell:
    return PageCell("-") if math.isnan(spread.mean) else PageCell(spread.difference(), spread.mean)


def _number(value: float, digits: int) -> PageCell:
    return PageCell(f"{value:.{digits}f}", value)
