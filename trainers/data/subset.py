"""A part of a dataset's images, to see what few labels are worth."""

from __future__ import annotations

import numpy as np

from trainers.data.pairs import PairDataset
from trainers.foundation.randomness import derive_seed


def drawn(dataset: PairDataset, count: int, seed: int) -> PairDataset:
    """That many of its images, in their order; of one seed, fewer of them are among more.

    Args:
        dataset: on disk.
        count: how many.
        seed: which ones.

    Raises:
        ValueError: the dataset has fewer.
    """
    if count > len(dataset):
        raise ValueError(f"--data.train_images {count} is more than the {len(dataset)} images that there are.")
    order = np.random.default_rng(derive_seed("images", seed)).permutation(len(dataset))
    return dataset.without(order[count:].tolist())
