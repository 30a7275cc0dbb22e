"""What a comparison shows at a glance: figures of its rows, in which a contender always looks the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from itertools import product
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from benchmarks.comparison.records import Costs
from benchmarks.comparison.summary import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Axis = Literal["latency", "parameters"]
"""What accuracy is drawn against."""
Fill = Literal["full", "none", "top"]
Line = Literal["-", "--", ":"]

_DPI: Final = 110
_WIDTH: Final = 9.0
_RULE: Final = "#d0d0d0"
_INK: Final = "#444444"
# Okabe and Ito's colours, which the colour-blind can tell apart, without the yellow that white swallows.
_COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STROKES: Final[Sequence[tuple[Fill, Line]]] = (("full", "-"), ("none", "--"), ("top", ":"))
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
_AXES: Final[Mapping[Axis, tuple[str, str, Callable[[Costs], float]]]] = {
    "latency": ("Latency of an image (ms)", "ms", lambda costs: 1e3 * costs.latency),
    "parameters": (
        "Parameters of encoder and decoder (millions)",
        "million",
        lambda costs: (costs.encoder_parameters + costs.decoder_parameters) / 1e6,
    ),
}


class Style(NamedTuple):
    """How a contender is drawn.

    Attributes:
        color: of its dots and lines.
        fill: of its dots.
        line: of its curve.
    """

    color: str
    fill: Fill
    line: Line

    def dots(self) -> dict[str, Any]:
        """As keywords of a line of matplotlib."""
        return {"color": self.color, "fillstyle": self.fill, "markerfacecoloralt": "white", "markeredgewidth": 1.2}


def contender_styles(rows: Iterable[Row]) -> dict[str, Style]:
    """The style of each contender; passed to figures of different rows, it keeps them alike.

    Args:
        rows: with all contenders; the order in which they first occur decides.
    """
    every = [Style(color, fill, line) for (fill, line), color in product(_STROKES, _COLORS)]
    names = dict.fromkeys(row.contender for row in rows)
    return {name: every[index % len(every)] for index, name in enumerate(names)}


def accuracy_against(rows: Sequence[Row], axis: Axis, *, styles: Mapping[str, Style] | None = None) -> Figure | None:
    """Mean IoU against what a model costs: a colour for each contender, a marker for each encoder.

    Args:
        rows: those without costs are left out.
        axis: the cost.
        styles: of the contenders; of ``rows`` if not given.

    Returns:
        The figure; ``None`` where no row has costs.
    """
    styles = styles or contender_styles(rows)
    title, unit, measure = _AXES[axis]
    costs = {index: measure(row.costs) for index, row in enumerate(rows) if row.costs is not None}
    if not costs:
        return None
    drawn = [rows[index] for index in costs]
    markers = _markers(drawn)
    figure, axes = _figure(max(5.0, 0.25 * (len({row.contender for row in drawn}) + len(markers) + 4)))
    for row, cost in zip(drawn, costs.values(), strict=True):
        axes.errorbar(
            cost,
            100 * row.mean_iou.mean,
            yerr=_deviation(row),
            marker=markers[row.encoder],
            markersize=8,
            capsize=3,
            elinewidth=1,
            linestyle="none",
            **styles[row.contender].dots(),
        )
    if max(costs.values()) > 4 * min(costs.values()):
        _logarithmic(axes)
    axes.set(xlabel=title, ylabel="mIoU (%)")
    contenders = dict.fromkeys(row.contender for row in drawn)
    _legend(
        figure,
        {
            "Contender": [_handle(name, marker="o", **styles[name].dots()) for name in contenders],
            "Encoder": [_handle(name, marker=marker, color=_INK) for name, marker in markers.items()],
        },
    )
    points = (
        f"{name} {row.mean_iou} at {cost:.3g} {unit}"
        for name, row, cost in zip(_names(drawn), drawn, costs.values(), strict=True)
    )
    figure.set_label(f"mIoU in percent against {title[0].lower()}{title[1:]}: {'; '.join(points)}.")
    return figure


def class_bars(rows: Sequence[Row], *, styles: Mapping[str, Style] | None = None) -> Figure | None:
    """IoU of each class: a bar from the worst row to the best, with a dot for each row.

    Args:
        rows: of one encoder, as a rule. The classes are sorted by the first one's IoU.
        styles: of the contenders; of ``rows`` if not given.

    Returns:
        The figure; ``None`` where no class has an IoU.
    """
    styles = styles or contender_styles(rows)
    known = {name: values for name in rows[0].class_iou if (values := _class_values(rows, name))} if rows else {}
    if not known:
        return None
    classes = sorted(known, key=lambda name: known[name].get(0, -1.0))
    figure, axes = _figure(1.4 + 0.21 * len(classes))
    places = range(len(classes))
    worst, best = ([100 * pick(known[name].values()) for name in classes] for pick in (min, max))
    axes.hlines(places, worst, best, color=_RULE, linewidth=3.5, zorder=1)
    markers = _markers(rows)
    handles = []
    for index, (row, name) in enumerate(zip(rows, _names(rows), strict=True)):
        looks = {"marker": markers[row.encoder], **styles[row.contender].dots()}
        dots = [(100 * known[kind][index], place) for place, kind in enumerate(classes) if index in known[kind]]
        # The first row is what the others are compared with, so it lies on top.
        axes.plot(*zip(*dots, strict=True), linestyle="none", markersize=5.5, zorder=3 - index / len(rows), **looks)
        handles.append(_handle(name, **looks))
    axes.set_yticks(places, classes)
    axes.set_ylim(-0.8, len(classes) - 0.2)
    axes.set_xlabel("IoU (%)")
    _legend(figure, {"": handles})
    figure.set_label(f"IoU in percent of each class, sorted by {_names(rows)[0]}, for {', '.join(_names(rows))}.")
    return figure


def curves(rows: Sequence[Row], *, styles: Mapping[str, Style] | None = None) -> Figure | None:
    """Mean IoU over the iterations: a line for each row.

    Args:
        rows: those that were validated once are left out.
        styles: of the contenders; of ``rows`` if not given.

    Returns:
        The figure; ``None`` where no row has a line.
    """
    styles = styles or contender_styles(rows)
    drawn = [row for row in rows if len(row.curve) > 1]
    if not drawn:
        return None
    figure, axes = _figure(max(4.5, 0.25 * (len(drawn) + 2)))
    markers = _markers(drawn)
    handles = []
    for row, name in zip(drawn, _names(drawn), strict=True):
        style = styles[row.contender]
        looks = {"marker": markers[row.encoder], "linestyle": style.line, **style.dots()}
        iterations, values = zip(*row.curve, strict=True)
        axes.plot(iterations, [100 * value for value in values], linewidth=1.5, markersize=4.5, **looks)
        handles.append(_handle(name, **looks))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="Iteration", ylabel="mIoU (%)")
    _legend(figure, {"": handles})
    ends = (f"{name} {100 * row.curve[-1][1]:.1f}" for name, row in zip(_names(drawn), drawn, strict=True))
    figure.set_label(f"mIoU in percent over the iterations; at the end: {'; '.join(ends)}.")
    return figure


def intervals(rows: Sequence[Row], *, styles: Mapping[str, Style] | None = None) -> Figure | None:
    """Mean IoU of each row with its standard deviation, and a dot for each seed.

    Where all rows have the same encoder, a rule marks the first one's mean.

    Args:
        rows: from top to bottom.
        styles: of the contenders; of ``rows`` if not given.

    Returns:
        The figure; ``None`` without rows.
    """
    if not rows:
        return None
    styles = styles or contender_styles(rows)
    figure, axes = _figure(1.1 + 0.34 * len(rows))
    if len(_markers(rows)) == 1:
        axes.axvline(100 * rows[0].mean_iou.mean, color=_RULE, linewidth=1.5, zorder=1)
    for place, row in enumerate(rows):
        color = styles[row.contender].color
        seeds = [100 * value for value in row.mean_iou.values]
        axes.plot(seeds, [place + 0.22] * len(seeds), "o", color=color, markersize=5, alpha=0.5, markeredgewidth=0)
        mean = 100 * row.mean_iou.mean
        axes.errorbar(mean, place, xerr=_deviation(row), marker="|", markersize=11, markeredgewidth=2, color=color)
    places = range(len(rows))
    axes.set_yticks(places, _names(rows))
    axes.secondary_yaxis("right").set_yticks(places, [str(row.mean_iou) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("mIoU (%): each seed, their mean and standard deviation")
    means = (f"{name} {row.mean_iou}" for name, row in zip(_names(rows), rows, strict=True))
    figure.set_label(f"mIoU in percent: {'; '.join(means)}.")
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Writes a figure in 256 colours: it looks the same, in a third of the bytes."""
    from PIL import Image  # comes with matplotlib

    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # of the "bench" extra

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def _handle(label: str, **looks: Any) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **{"linestyle": "none", "markersize": 7, **looks})


def _legend(figure: Figure, groups: Mapping[str, Sequence[Line2D]]) -> None:
    """A legend beside the axes, with a heading for each group that has a name."""
    handles = []
    for heading, group in groups.items():
        handles += [_handle(heading)] * bool(heading) + list(group)
    legend = figure.legend(handles=handles, loc="outside right upper", frameon=False, handlelength=2.5)
    for text in legend.get_texts():
        if text.get_text() in groups:
            text.set_fontweight("bold")


def _logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def _markers(rows: Iterable[Row]) -> dict[str, str]:
    """A marker for each encoder."""
    encoders = dict.fromkeys(row.encoder for row in rows)
    return {name: _MARKERS[index % len(_MARKERS)] for index, name in enumerate(encoders)}


def _names(rows: Sequence[Row]) -> list[str]:
    """What the rows are called: their contenders, and their encoders where these differ."""
    if len({row.encoder for row in rows}) == 1:
        return [row.contender for row in rows]
    return [f"{row.contender}, {row.encoder}" for row in rows]


def _deviation(row: Row) -> float | None:
    return None if isnan(row.mean_iou.deviation) else 100 * row.mean_iou.deviation


def _class_values(rows: Sequence[Row], name: str) -> dict[int, float]:
    """IoU of a class by the row's index, without the rows that have none."""
    values = {index: row.class_iou.get(name) for index, row in enumerate(rows)}
    return {index: value for index, value in values.items() if value is not None}
