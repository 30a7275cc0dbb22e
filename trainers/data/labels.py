"""What the ids in a dataset's masks mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.data.batch import IGNORE_INDEX

UNKNOWN = -1


class UnknownLabelError(ValueError):
    """A mask holds an id that means nothing."""


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

    def read(self, ids: NDArray[np.int64], *, name: str) -> NDArray[np.int64]:
        """The classes (H,W) of a mask's ids (H,W); ``name`` is what the message calls the mask.

        Raises:
            UnknownLabelError: an id means nothing.
        """
        labels = self.classes[ids.clip(UNKNOWN, len(self.classes) - 1)]
        if (labels == UNKNOWN).any():
            unknown = np.unique(ids[labels == UNKNOWN]).tolist()
            shown = ", ".join(map(str, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
            raise UnknownLabelError(f"The mask {name} has the ids [{shown}], but {self.expected}.")
        return labels
