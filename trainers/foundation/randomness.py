"""Seeds that derive from what they are for and from where in a run, so that a run can start, or be split, anywhere."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

Purpose = Literal["window", "colours", "points", "model", "set", "order of a set", "images"]
"""What random numbers are for; each has a stream of its own, independent of the others."""


def derive_seed(purpose: Purpose, *key: int) -> int:
    """A seed of 64 bits for a purpose and a key such as (the run's seed, iteration, place in the batch)."""
    return int(np.random.SeedSequence((zlib.crc32(purpose.encode()), *key)).generate_state(1, np.uint64)[0])


def derive_generators(
    purpose: Purpose, seed: int, iteration: int, slots: Sequence[int], device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """One generator for each sample of a batch, by its place in the batch of all processes."""
    return [torch.Generator(device).manual_seed(derive_seed(purpose, seed, iteration, slot)) for slot in slots]
