"""The pictures in a folder, and what in it is left aside."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainers.data.problems import Problem
from trainers.data.reading import IMAGE_SUFFIXES


@dataclass(frozen=True)
class FoundFiles:
    """The files in a folder and in those below it, in order.

    Attributes:
        pictures: those with the suffix of a format that is read, in any case.
        others: all others, and hidden ones.
        suffixes: those of the formats that are read.
    """

    pictures: list[Path]
    others: list[Path]
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES

    @property
    def remarks(self) -> list[Problem]:
        """That the others are left aside."""
        remedy = f"of pictures, save those that are to be used as one of {', '.join(self.suffixes)}"
        return [
            Problem("files left aside, hidden or no pictures by their suffix", str(path), "", remedy, "")
            for path in self.others
        ]


def find_files(folder: Path, *, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, without: Path | None = None) -> FoundFiles:
    """Look for files with some suffixes in a folder and all below it, but for the one at ``without``.

    Links to folders are followed.

    Raises:
        OSError: a folder cannot be read.
    """
    left_out = set() if without is None else {without.resolve()}
    paths = sorted(_walk(folder, left_out | {folder.resolve()}))
    shown = [path for path in paths if path.suffix.lower() in suffixes and not _is_hidden(path, folder)]
    return FoundFiles(shown, sorted(set(paths) - set(shown)), suffixes)


def _walk(folder: Path, closed: Collection[Path]) -> Iterator[Path]:
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        path = folder / entry.name
        if not entry.is_dir():
            yield path
        elif (real := path.resolve()) not in closed:  # a link may lead back to a folder around it
            yield from _walk(path, {*closed, real})


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
