"""Classes that have a name, but no pixel to be learned from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from trainers.data.batch import IGNORE_INDEX
from trainers.data.pairs import PairDataset
from trainers.data.problems import Problem, few

NAMED = 10
"""Classes that are named where many are absent."""


@dataclass(frozen=True)
class AbsentClasses:
    """Classes that no mask of a training split holds.

    Attributes:
        problem: which they are, and the likely cause.
        hopeless: whether fewer than two classes are left, which leaves nothing to learn.
    """

    problem: Problem
    hopeless: bool


def find_absent(labels: Collection[int], dataset: PairDataset, split: str) -> AbsentClasses | None:
    """The classes of a dataset that are not among the labels of its training split; ``None`` if all are.

    Args:
        labels: all that occur, the ignored one included.
        dataset: the training split.
        split: its name.
    """
    names = dataset.class_names
    present = [id_ for id_ in range(len(names)) if id_ in labels]
    absent = [name for id_, name in enumerate(names) if id_ not in labels]
    if not absent:
        return None
    classes = "the class" if len(absent) == 1 else f"{len(absent)} of the {len(names)} classes:"
    detail = f"holds no pixel of {classes} {few(absent, count=NAMED)}"
    remedy = "nothing can be learned of what is not there: check that the ids in the masks count as the names do"
    only_255 = dataset.table.ignored_ids == [IGNORE_INDEX] and dataset.colors is None
    if IGNORE_INDEX in labels and only_255 and len(present) <= 1:
        held = f"{names[present[0]]} and {IGNORE_INDEX}" if present else f"{IGNORE_INDEX} alone"
        detail += f": its masks hold {held}, and {IGNORE_INDEX} means ignore"
        ids = str(names.index(absent[0])) if len(absent) == 1 else "the id of the class"
        remedy = f"write {ids} where the masks say {IGNORE_INDEX}"
    problem = Problem("classes without a pixel to learn from", split, detail, remedy, "The split")
    return AbsentClasses(problem, hopeless=len(present) < 2)
