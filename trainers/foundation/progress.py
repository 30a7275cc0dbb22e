"""Progress of long work: a bar that is redrawn on a terminal, a line every tenth where output goes to a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from ignite.handlers import ProgressBar
from tqdm import tqdm

T = TypeVar("T")


def is_redrawn() -> bool:
    """Whether what is written to stderr can be written over: on a terminal, and in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class TenthLines(tqdm):  # type: ignore[type-arg]  # generic only while types are checked
    """A bar as whole lines, one for each tenth of the work; none where it is not known how much there is."""

    tenths = 0

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Writes a line if a tenth has passed since the last one."""
        tenths = int(10 * self.n / self.total) if self.total else 0
        if tenths > self.tenths:
            self.tenths = tenths
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def clear(self, *_: Any, **__: Any) -> None:
        """Leaves the lines, where others are written between them."""

    def close(self) -> None:
        """Ends with the last line, rather than with an empty one."""
        if not self.disable:
            self.display()
            self.sp = None  # as a bar in a window has none: there is no line to end or to wipe
        super().close()


def progress(work: Iterable[T], *, title: str, total: int | None = None, **options: Any) -> Iterable[T]:
    """The same work, under a bar.

    Args:
        work: what there is to do.
        title: of the bar.
        total: how much there is, if its length does not say so.
        **options: those of tqdm.
    """
    bar: Iterable[T] = (tqdm if is_redrawn() else TenthLines)(work, desc=title, total=total, **options)
    return bar


def engine_progress(title: str, *, lasting: bool = False, as_lines: bool = True) -> ProgressBar:
    """A bar for an engine of Ignite.

    Args:
        title: of the bar.
        lasting: whether it stays on the terminal when the engine has ended.
        as_lines: whether there are lines where a bar cannot be redrawn, or nothing.
    """
    if is_redrawn():
        return ProgressBar(persist=lasting, desc=title)
    bar = ProgressBar(persist=lasting, bar_format=None, desc=title, disable=not as_lines)
    bar.pbar_cls = TenthLines
    return bar
