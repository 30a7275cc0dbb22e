"""A dataset whose classes are others than those on disk: some of them, or the same by other names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from trainers.data.batch import IGNORE_INDEX, Sample, SegmentationDataset


class Relabelled(SegmentationDataset):
    """A dataset with other labels.

    Args:
        dataset: the samples.
        class_names: K' names of the new labels.
        table: (256,) int64, of each label the new one, or ``IGNORE_INDEX``.
    """

    def __init__(self, dataset: SegmentationDataset, class_names: Sequence[str], table: Tensor) -> None:
        self.dataset = dataset
        self.class_names = list(class_names)
        self._table = table

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        sample = self.dataset[index]
        return replace(sample, label=self._table[sample.label])

    def over(self, dataset: SegmentationDataset) -> Self:
        """The same of other samples, which have the classes of the present ones."""
        return type(self)(dataset, self.class_names, self._table)

    def sources(self, class_names: Collection[str]) -> list[str]:
        """The names that the classes with these names have in what lies behind."""
        kept = {self.class_names.index(name) for name in class_names if name in self.class_names}
        return [name for name, new in zip(self.dataset.class_names, self._table.tolist(), strict=False) if new in kept]


def lookup(new_labels: Sequence[int]) -> Tensor:
    """(256,) int64: of each of the first labels the one given, of all others ``IGNORE_INDEX``."""
    table = torch.full((IGNORE_INDEX + 1,), IGNORE_INDEX)
    table[: len(new_labels)] = torch.tensor(new_labels, dtype=torch.int64)
    return table
