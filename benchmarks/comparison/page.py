"""Tables and figures as one HTML file that needs no network, and the same tables as Markdown."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.markdown import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")


@dataclass(frozen=True)
class PageColumn:
    """A column of a table.

    Attributes:
        name: its heading.
        numeric: set to the right, and the largest first when it is sorted.
        best: which of its values is shown in bold.
    """

    name: str
    numeric: bool = False
    best: Literal["high", "low"] | None = None


@dataclass(frozen=True)
class PageCell:
    """A cell of a table.

    Attributes:
        text: what it shows.
        sort: its place in the column's order. A column in which no cell has one is sorted by its texts; else a cell
            without one, or with NaN or an infinity, comes last.
    """

    text: str
    sort: float | None = None


@dataclass(frozen=True)
class PageTable:
    """A table that the reader of a page can sort and filter.

    Attributes:
        title: its heading.
        columns: from left to right; the first one names the rows.
        rows: of as many cells as there are columns.
        note: a paragraph after the table.
    """

    title: str
    columns: Sequence[PageColumn]
    rows: Sequence[Sequence[PageCell]]
    note: str = ""

    def to_markdown(self) -> str:
        """Heading, table and note, with the best values in bold."""
        best = self._best()
        rows = [[_bold_markdown(cell, value) for cell, value in zip(row, best, strict=True)] for row in self.rows]
        columns = [_markdown(column.name) for column in self.columns]
        return "\n\n".join(part for part in (f"## {self.title}", table(columns, rows), self.note) if part)

    def to_html(self, name: str) -> str:
        """A section of a page.

        Args:
            name: of the section's heading in the page, which no other has.
        """
        title = escape(self.title)
        head = "".join(f'<th scope="col"{_kind(column)}>{escape(column.name)}</th>' for column in self.columns)
        body = "".join(f"<tr>{self._row_html(row)}</tr>\n" for row in self.rows)
        note = f"<p>{escape(self.note)}</p>\n" if self.note else ""
        return (
            f'<section>\n<h2 id="{name}">{title}</h2>\n'
            f'<div class="filter" hidden><label>Filter <input type="search" autocomplete="off" '
            f'aria-label="Filter {title}"></label><output></output></div>\n'
            f'<div class="box" role="region" aria-labelledby="{name}" tabindex="0"><table aria-labelledby="{name}">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n{note}</section>\n"
        )

    def _row_html(self, row: Sequence[PageCell]) -> str:
        cells: list[str] = []
        for column, cell, best in zip(self.columns, row, self._best(), strict=True):
            tag = "td" if cells else 'th scope="row"'
            value = "" if (number := _number(cell)) is None else f' data-sort="{number!r}"'
            text = f"<b>{escape(cell.text)}</b>" if number is not None and number == best else escape(cell.text)
            cells.append(f"<{tag}{_kind(column)}{value}>{text}</{tag[:2]}>")
        return "".join(cells)

    def _best(self) -> list[float | None]:
        """Best value of each column; ``None`` where none is asked for, or where all are the same."""
        found: list[float | None] = []
        for index, column in enumerate(self.columns):
            numbers = {number for row in self.rows if (number := _number(row[index])) is not None}
            pick = {"high": max, "low": min, None: None}[column.best]
            found.append(pick(numbers) if pick and len(numbers) > 1 else None)
        return found


def write_page(
    path: Path,
    *,
    title: str,
    introduction: Sequence[str],
    tables: Sequence[PageTable],
    figures: Sequence[tuple[str, Figure]],
) -> None:
    """Writes a page that holds all it shows; a file is whole or not there.

    A policy in the page lets it load nothing, and run no script but its own, whatever the texts in it are.

    Args:
        path: The HTML file.
        title: of the page.
        introduction: Paragraphs before the tables.
        tables: in their order.
        figures: Each with its caption. What is to be read in place of the picture is its label
            (``figure.set_label``), or the caption if it has none.
    """
    script = _TEMPLATE.partition("<script>")[2].partition("</script>")[0]
    digest = b64encode(sha256(script.encode()).digest()).decode("ascii")
    head, foot = _TEMPLATE.replace("SCRIPT_HASH", f"sha256-{digest}").split("<!-- content -->\n")
    parts = [
        head.replace("TITLE", escape(title)),
        *(f"<p>{escape(paragraph)}</p>\n" for paragraph in introduction),
        *(table.to_html(f"table-{number}") for number, table in enumerate(tables, start=1)),
        *(_figure_html(caption, figure) for caption, figure in figures),
        foot,
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(parts), encoding="utf-8", newline="\n")
    partial.replace(path)


def _figure_html(caption: str, figure: Figure) -> str:
    from matplotlib import rc_context  # of the "bench" extra

    picture = BytesIO()
    # Without a salt the names in the file are random, and with a date no two files are alike. Letters as text, not as
    # outlines, make it half as large.
    with rc_context({"svg.hashsalt": "figure", "svg.fonttype": "none"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    address = "data:image/svg+xml;base64," + b64encode(picture.getvalue()).decode("ascii")
    described = escape(str(figure.get_label()) or caption)
    return (
        f'<figure><div class="box" role="group" aria-label="{escape(caption)}" tabindex="0"><img src="{address}" '
        f'alt="{described}"></div><figcaption>{escape(caption)}</figcaption></figure>\n'
    )


def _number(cell: PageCell) -> float | None:
    return float(cell.sort) if cell.sort is not None and isfinite(cell.sort) else None


def _kind(column: PageColumn) -> str:
    return ' class="number"' if column.numeric else ""


def _markdown(text: str) -> str:
    return text.replace("|", r"\|")


def _bold_markdown(cell: PageCell, best: float | None) -> str:
    number = _number(cell)
    return f"**{_markdown(cell.text)}**" if number is not None and number == best else _markdown(cell.text)
