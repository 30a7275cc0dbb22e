"""The order of the samples in a run: an endless stream of which each place is known from the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainers.foundation.randomness import derive_seed


class SampleOrder(Protocol):
    """Gives the index of the sample at a place in the stream."""

    def __call__(self, place: int) -> int:
        """The index of the sample at ``place``, counted from 0."""


class ShuffledOrder:
    """Permutation after permutation of all samples, the one of each epoch drawn from (seed, epoch).

    Args:
        length: number of samples.
        seed: what the permutations derive from.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length = length
        self._seed = seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __call__(self, place: int) -> int:
        """The index of the sample at ``place``."""
        epoch, offset = divmod(place, self._length)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, np.random.default_rng((self._seed, epoch)).permutation(self._length)
        return int(self._permutation[offset])


class WeightedOrder:
    """Samples of several sets that lie one behind the other: the set of each place is drawn, its samples are shuffled.

    So each set has epochs of its own: all of its samples come once before one comes again.

    Args:
        lengths: number of samples of each set.
        shares: the part of the places that each set takes; their sum is 1.
        seed: what all draws derive from.
    """

    def __init__(self, lengths: Sequence[int], shares: Sequence[float], seed: int) -> None:
        self._starts = [sum(lengths[:number]) for number in range(len(lengths))]
        self._orders = [
            ShuffledOrder(length, derive_seed("order of a set", seed, number)) for number, length in enumerate(lengths)
        ]
        self._ends = np.cumsum(shares)
        self._seed = derive_seed("set", seed)
        self._sets: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._turns: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __call__(self, place: int) -> int:
        """The index of the sample at ``place``."""
        if place >= len(self._sets):
            self._draw(2 * place + 1024)
        number = int(self._sets[place])
        return self._starts[number] + self._orders[number](int(self._turns[place]))

    def _draw(self, count: int) -> None:
        """Draws the sets of the first places anew, always the same ones, and counts how often each came before."""
        drawn = np.random.default_rng(self._seed).random(count)
        self._sets = np.searchsorted(self._ends[:-1], drawn, side="right")
        self._turns = np.empty(count, dtype=np.int64)
        for number in range(len(self._orders)):
            own = self._sets == number
            self._turns[own] = np.arange(own.sum())
