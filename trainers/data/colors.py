"""Masks in colours, and the table that says which class a colour is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.data.labels import SMEARED, UNKNOWN, lies_along_edges
from trainers.data.problems import Problem, UnfitFileError, few

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


@dataclass(frozen=True, eq=False)
class ColorTable:
    """The id of each colour.

    Attributes:
        codes: (N,) int64, ascending, of each colour 65536 red + 256 green + blue.
        ids: (N,) int64, of each colour its id.
        file: what messages call the file that the table comes from.
    """

    codes: NDArray[np.int64]
    ids: NDArray[np.int64]
    file: str

    @classmethod
    def of(cls, colors: Sequence[Color], ids: Sequence[int], *, file: str) -> ColorTable:
        """The table of colours, all different, and their ids."""
        codes = _codes(np.array(colors, np.uint8).reshape(-1, 3))
        order = np.argsort(codes)
        return cls(codes[order], np.array(ids, np.int64)[order], file)

    def read(self, rgb: NDArray[np.uint8], *, name: str) -> NDArray[np.int64]:
        """The ids (H,W) of a mask's colours (H,W,3); ``name`` is what the message calls the mask.

        Raises:
            UnfitFileError: a colour is not in the table.
        """
        codes = _codes(rgb)
        ids = self._look_up(codes)
        unknown = ids == UNKNOWN
        if unknown.any():
            found, counts = np.unique(codes[unknown], return_counts=True)
            most = np.argsort(-counts, kind="stable")
            shown = [
                f"{tuple(color)} in {count} pixels"
                for color, count in zip(_channels(found[most]).tolist(), counts[most].tolist(), strict=True)
            ]
            smeared = lies_along_edges(codes, unknown) or self._are_nearly_known(found[most], counts[most])
            raise UnfitFileError(
                Problem(
                    f"masks with colours that are not in {self.file}",
                    name,
                    f"has the colours {few(shown)}{SMEARED if smeared else ''}",
                    f"add them to {self.file}, or draw the mask in its colours",
                )
            )
        return ids

    def refuse_doubt(self, ids: NDArray[np.int64], grey: NDArray[np.uint8], *, name: str) -> None:
        """Look whether a mask of one channel may be in colours.

        Args:
            ids: (H,W) its values, which are what it is read as.
            grey: (H,W,3) what it looks like.
            name: what the message calls the mask.

        Raises:
            UnfitFileError: all that it looks like are colours of the table, and of other classes than its values.
        """
        by_color = self._look_up(_codes(grey))
        if (by_color != UNKNOWN).all() and (by_color != ids).any():
            raise UnfitFileError(
                Problem(
                    f"masks of one channel that are grey as in {self.file}",
                    name,
                    f"has one channel with {np.unique(ids).tolist()}, which may be ids, or grey colours of {self.file}",
                    f"save it as RGB if it is in colours, or remove {self.file} if all masks hold ids",
                )
            )

    def _are_nearly_known(self, codes: NDArray[np.int64], counts: NDArray[np.int64]) -> bool:
        """Whether most pixels of several unknown colours have nearly one of the table: JPEG changes areas too.

        The colours come with the most frequent first, and a thousand tell enough.
        """
        codes, counts = codes[:1000], counts[:1000]
        steps = np.abs(_channels(codes)[:, None] - _channels(self.codes)).max(2).min(1)
        return bool(len(codes) >= 3 and counts[steps <= 8].sum() > 0.5 * counts.sum())

    def _look_up(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        place = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        return np.where(self.codes[place] == codes, self.ids[place], UNKNOWN)


def _channels(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1)


def _codes(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue
