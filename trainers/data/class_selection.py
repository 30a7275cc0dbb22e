"""Some of a dataset's classes: those that count at all, and those that training sees."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

import torch

from trainers.data.batch import IGNORE_INDEX, SegmentationDataset
from trainers.data.pairs import PairDataset
from trainers.data.relabelled import Relabelled, lookup

HINT_NAMES: Final = 20
"""Classes that a sentence about an unknown one lists; of more, it names the nearest alone."""


def selection_table(class_names: Sequence[str], selected: Sequence[str]) -> torch.Tensor:
    """(256,) int64: of each class id its place among the selected classes, else ``IGNORE_INDEX``."""
    places = {name: place for place, name in enumerate(selected)}
    return lookup([places.get(name, IGNORE_INDEX) for name in class_names])


def on_disk(dataset: SegmentationDataset) -> PairDataset | None:
    """The pairs of files that a dataset reads, whatever classes are selected of them; ``None`` for a generated one."""
    while isinstance(dataset, Relabelled):
        dataset = dataset.dataset
    return dataset if isinstance(dataset, PairDataset) else None


def select_classes(dataset: SegmentationDataset, class_names: Sequence[str]) -> SegmentationDataset:
    """The dataset with these of its classes alone; itself, if these are all.

    Their ids count from 0 in their order; the pixels of all others are ignored.
    """
    if dataset.class_names == list(class_names):
        return dataset
    return Relabelled(dataset, class_names, selection_table(dataset.class_names, class_names))


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
            raise ValueError(no_such_class(name, class_names, option=option))
    if len(set(left_out)) < len(left_out):
        twice = next(name for name in left_out if left_out.count(name) > 1)
        raise ValueError(f"{option} has '{twice}' twice; name each class once.")
    rest = [name for name in class_names if name not in left_out]
    if not rest:
        raise ValueError(f"{option} has all {len(class_names)} classes of the dataset; leave some to train on.")
    if left_out and len(rest) == 1:
        raise ValueError(f"{option} leaves '{rest[0]}' alone, with nothing to be told from; leave two classes or more.")
    return rest


def no_such_class(name: str, class_names: Sequence[str], *, option: str) -> str:
    """What is said of a name in an option that is no class of a dataset."""
    close = difflib.get_close_matches(name, class_names, n=1, cutoff=0)
    hint = f"the nearest of its {len(class_names)} classes is '{close[0]}'"
    if len(class_names) <= HINT_NAMES:
        hint = f"it has {', '.join(class_names)}"
    return f"{option} has '{name}', which is no class of the dataset; {hint}."
