"""What can be wrong with the files of a dataset, told alike wherever it is found."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SHOWN = 3
"""Files that are named of each kind, where there are many."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a file, or that its owner should know of.

    Attributes:
        kind: what sort of problem it is; files of one kind are told together.
        path: the file.
        detail: what it is of this file, as the words behind its path.
        remedy: what to do about files of this kind.
        subject: the words before the path.
    """

    kind: str
    path: str
    detail: str
    remedy: str
    subject: str = "The mask"

    def __str__(self) -> str:
        """One sentence that names the file and the remedy."""
        if not self.path:
            return self.detail
        return f"{self.subject} {self.path} {self.detail}; {self.remedy}.".lstrip()


class ProblemError(Exception):
    """A problem with a file.

    Attributes:
        problem: ``None`` where a loader's worker made the error anew from its text.
    """

    def __init__(self, problem: Problem | str) -> None:
        super().__init__(str(problem))
        self.problem = problem if isinstance(problem, Problem) else None


class UnfitFileError(ProblemError, ValueError):
    """A file holds something else than it should."""


class UnreadableFileError(ProblemError, OSError):
    """A file is broken, or of a format that is not read."""


class MissingFileError(ProblemError, FileNotFoundError):
    """A file is not where it should be."""


def problem_of(error: Exception) -> Problem:
    """The problem that an error tells of; of one that names no file all that is known is its text."""
    if isinstance(error, ProblemError) and error.problem is not None:
        return error.problem
    kind = "files that cannot be read" if isinstance(error, OSError) else "images or masks that cannot be used"
    return Problem(kind, "", str(error), "")


def by_kind(problems: Iterable[Problem]) -> list[list[Problem]]:
    """The problems in groups of one kind and remedy, each told once, in the order in which the kinds came."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in dict.fromkeys(problems):
        groups.setdefault((problem.kind, problem.remedy), []).append(problem)
    return list(groups.values())


def one_line_each(problems: Iterable[Problem]) -> Iterator[str]:
    """A sentence for each kind of problem, with its count and a few files."""
    for group in by_kind(problems):
        yield f"{group[0].kind} ({len(group)}): {few([entry(problem) for problem in group])}; {group[0].remedy}."


def entry(problem: Problem, root: Path | None = None) -> str:
    """A file and what is wrong with it, without the remedy; paths below ``root`` without it."""
    text = f"{problem.path} {problem.detail}".strip()
    return text if root is None else text.replace(f"{root}{os.sep}", "")


def few(names: Sequence[str], *, count: int = SHOWN) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
