"""What a training worker does: decode a sample and cut a random window out of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Dataset

from trainers.data.batch import Sample, SegmentationDataset


@dataclass(frozen=True)
class CutKey:
    """Which sample to cut, and for which place in the run.

    Attributes:
        index: the sample's index in the dataset.
        iteration: the training iteration.
        slot: the place in the iteration's batch, counted over all ranks.
    """

    index: int
    iteration: int
    slot: int


class RandomCutDataset(Dataset[Sample]):
    """Windows of at most ``cut_size``, each a function of the seed and its key alone.

    Args:
        dataset: the samples to cut from.
        cut_size: (height, width) of a window; smaller images stay whole.
        seed: the run's seed.
    """

    def __init__(self, dataset: SegmentationDataset, *, cut_size: tuple[int, int], seed: int) -> None:
        self.dataset = dataset
        self.cut_size = cut_size
        self.seed = seed

    def __getitem__(self, key: CutKey) -> Sample:
        """Decode the sample and cut its window."""
        sample = self.dataset[key.index]
        rng = np.random.default_rng((self.seed, key.iteration, key.slot))
        height, width = sample.label.shape
        cut_height, cut_width = min(self.cut_size[0], height), min(self.cut_size[1], width)
        top = int(rng.integers(height - cut_height + 1))
        left = int(rng.integers(width - cut_width + 1))
        window = slice(top, top + cut_height), slice(left, left + cut_width)
        return replace(sample, image=sample.image[:, *window], label=sample.label[window])
