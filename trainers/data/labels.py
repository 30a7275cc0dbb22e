"""What the ids in a dataset's masks mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.data.batch import IGNORE_INDEX
from trainers.data.problems import Problem, UnfitFileError

UNKNOWN = -1
SMEARED = ", which look like traces of JPEG or of smooth resizing: export it anew from where it was drawn"
"""What is said of unknown values that lie along edges."""


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The class of each id.

    Attributes:
        classes: (N,) int64, of each id from 0 to N-2 its class, ``IGNORE_INDEX`` or ``UNKNOWN``. The last entry
            stands for all other ids, and is ``UNKNOWN``.
        expected: what the ids should be, and the remedy: the end of the sentence about one that is unknown.
    """

    classes: NDArray[np.int64]
    expected: str

    @classmethod
    def of(cls, classes: Mapping[int, int], *, expected: str) -> LabelTable:
        """The table of a mapping from ids to classes; 255 is void in every dataset."""
        known = {IGNORE_INDEX: IGNORE_INDEX, **{id_: class_ for id_, class_ in classes.items() if id_ >= 0}}
        table = np.full(max(known) + 2, UNKNOWN, dtype=np.int64)
        table[list(known)] = list(known.values())
        return cls(table, expected)

    @property
    def ignored_ids(self) -> list[int]:
        """The ids that are void."""
        return np.flatnonzero(self.classes == IGNORE_INDEX).tolist()

    def read(self, ids: NDArray[np.int64], *, name: str) -> NDArray[np.int64]:
        """The classes (H,W) of a mask's ids (H,W); ``name`` is what the message calls the mask.

        Raises:
            UnfitFileError: an id means nothing.
        """
        labels = self.classes[ids.clip(UNKNOWN, len(self.classes) - 1)]
        unknown = labels == UNKNOWN
        if unknown.any():
            found = np.unique(ids[unknown]).tolist()
            shown = ", ".join(map(str, found[:10])) + (", ..." if len(found) > 10 else "")
            detail = f"has the ids [{shown}]{SMEARED if lies_along_edges(ids, unknown) else ''}"
            raise UnfitFileError(Problem("masks with ids that are no class", name, detail, self.expected))
        return labels


def lies_along_edges(values: NDArray[np.int64], unknown: NDArray[np.bool_]) -> bool:
    """Whether the unknown ones among values (H,W) lie as JPEG or smooth resizing bring them about.

    Those are several, in fewer than half of the pixels, and nearly all beside pixels of another value.
    """
    padded = np.pad(values, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    edge = np.any([neighbour != values for neighbour in around], axis=0)
    several = len(np.unique(values[unknown])) >= 3
    return bool(several and unknown.mean() < 0.5 and edge[unknown].mean() > 0.9)
