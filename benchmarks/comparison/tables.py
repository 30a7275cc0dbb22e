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


def accuracy_table(title: str, rows: Sequence[Row], *, note: str = "") -> PageTable:
    """What each contender reaches on each encoder, and what it costs."""
    groups = list(rows[0].groups)
    costs = _COSTS if any(row.costs for row in rows) else ()
    columns = [
        PageColumn("encoder"),
        PageColumn("contender"),
        *(PageColumn(name, numeric=True, best="high") for name in ("mIoU", *groups, "boundary IoU")),
        PageColumn("seeds", numeric=True),
        *(PageColumn(column.name, numeric=True, best="low") for column in costs),
    ]
    cells = [
        [
            PageCell(row.encoder),
            PageCell(row.contender),
            *(_spread(spread) for spread in (row.mean_iou, *(row.groups[group] for group in groups), row.boundary_iou)),
            PageCell(str(len(row.seeds)), float(len(row.seeds))),
            *(column.cell(row.costs) for column in costs),
        ]
        for row in rows
    ]
    return PageTable(title, columns, cells, note)


def difference_table(title: str, rows: Sequence[Row], reference: str, *, note: str = "") -> PageTable:
    """How far a contender is ahead of each other one on the same encoder and seeds, with intervals; then on average.

    Args:
        title: of the table.
        rows: of all contenders; those whose seeds are not the reference's are left out.
        reference: name of the contender that is ahead or behind.
        note: a paragraph after the table.
    """
    of_reference = {row.encoder: row for row in rows if row.contender == reference}
    measures: dict[str, Callable[[Row], Spread]] = {"mIoU": lambda row: row.mean_iou}
    measures |= {group: lambda row, group=group: row.groups[group] for group in rows[0].groups}  # type: ignore[misc]
    measures["boundary IoU"] = lambda row: row.boundary_iou
    columns = [
        PageColumn("encoder"),
        PageColumn(f"{reference} minus"),
        *(PageColumn(name, numeric=True) for name in measures),
    ]
    pairs = [
        (its, row)
        for row in rows
        if row.contender != reference and (its := of_reference.get(row.encoder)) and its.seeds == row.seeds
    ]
    cells = [
        [
            PageCell(row.encoder),
            PageCell(row.contender),
            *(_difference(of(its).minus(of(row))) for of in measures.values()),
        ]
        for its, row in pairs
    ]
    for contender in dict.fromkeys(row.contender for _, row in pairs):
        own = [(its, row) for its, row in pairs if row.contender == contender]
        if len(own) > 1 and len({row.seeds for _, row in own}) == 1:
            means = [_mean([of(its).minus(of(row)) for its, row in own]) for of in measures.values()]
            cells.append([PageCell(f"mean of {len(own)}"), PageCell(contender), *map(_difference, means)])
    return PageTable(title, columns, cells, note)


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


def _mean(spreads: Sequence[Spread]) -> Spread:
    """Mean of each seed over several numbers of it."""
    return Spread(tuple(statistics.fmean(of_seed) for of_seed in zip(*(each.values for each in spreads), strict=True)))


def _spread(spread: Spread) -> PageCell:
    return PageCell("-") if math.isnan(spread.mean) else PageCell(str(spread), spread.mean)


def _difference(spread: Spread) -> PageCell:
    return PageCell("-") if math.isnan(spread.mean) else PageCell(spread.difference(), spread.mean)


def _number(value: float, digits: int) -> PageCell:
    return PageCell(f"{value:.{digits}f}", value)
