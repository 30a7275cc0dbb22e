"""Some of a dataset's classes: those that count at all, and those that training sees."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

import torch

from trainers.data.batch import IGNORE_INDEX, Sample, SegmentationDataset

HINT_NAMES: Final = 20
"""Classes that a sentence about an unknown one lists; of more, it names the nearest alone."""


class ClassSelection(SegmentationDataset):
    """A dataset with some of its classes, whose ids count from 0 in their order; the pixels of all others are ignored.

    Args:
        dataset: the samples.
        class_names: names of classes that it has.
    """

    def __init__(self, dataset: SegmentationDataset, class_names: Sequence[str]) -> None:
        self.dataset = dataset
        self.class_names = list(class_names)
        self._selected = selection_table(dataset.class_names, class_names)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        sample = self.dataset[index]
        return Sample(image=sample.image, label=self._selected[sample.label], name=sample.name)


def selection_table(class_names: Sequence[str], selected: Sequence[str]) -> torch.Tensor:
    """(256,) int64: of each class id its place among the selected classes, else ``IGNORE_INDEX``."""
    table = torch.full((IGNORE_INDEX + 1,), IGNORE_INDEX)
    for place, name in enumerate(selected):
        table[class_names.index(name)] = place
    return table


def select_classes(dataset: SegmentationDataset, class_names: Sequence[str]) -> SegmentationDataset:
    """The dataset with these of its classes alone; itself, if these are all."""
    return dataset if dataset.class_names == list(class_names) else ClassSelection(dataset, class_names)


def names_without(class_names: Sequence[str], left_out: Sequence[str], *, option: str) -> list[str]:
    """The names of a dataset's classes but for some.

    Args:
        class_names: all names.
        left_out: those that an option leaves out.
        option: its name, for messages.

    Raises:
        ValueError: it names a class that is not there, or one twice, or leaves less than two.
    """
    for name in left_out:
        if name not in class_names:
            raise ValueError(f"{option} has '{name}', which is no class of the dataset; {_hint(name, class_names)}")
    if len(set(left_out)) < len(left_out):
        twice = next(name for name in left_out if left_out.count(name) > 1)
        raise ValueError(f"{option} has '{twice}' twice; name each class once.")
    rest = [name for name in class_names if name not in left_out]
    if not rest:
        raise ValueError(f"{option} has all {len(class_names)} classes of the dataset; leave some to train on.")
    if left_out and len(rest) == 1:
        raise ValueError(f"{option} leaves '{rest[0]}' alone, with nothing to be told from; leave two classes or more.")
    return rest


def _hint(name: str, class_names: Sequence[str]) -> str:
    if len(class_names) <= HINT_NAMES:
        return f"it has {', '.join(class_names)}."
    close = difflib.get_close_matches(name, class_names, n=1, cutoff=0)
    return f"the nearest of its {len(class_names)} classes is '{close[0]}'."
