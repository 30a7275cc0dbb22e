"""Several data sets as one, whose classes are those of all of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Self

import torch

from mtaclip_plugin.text import fold_name
from trainers.data.batch import IGNORE_INDEX, Sample, SegmentationDataset
from trainers.data.class_selection import no_such_class
from trainers.data.orders import SampleOrder, WeightedOrder
from trainers.data.relabelled import Relabelled, lookup


def joint_names(dataset: SegmentationDataset, rename: Mapping[str, str], *, name: str) -> Relabelled:
    """A data set under the names by which classes are joined: renamed ones, in letters of one case.

    Classes of one name are one class.

    Args:
        dataset: the samples.
        rename: other names for some of its classes.
        name: what messages call the data set.

    Raises:
        ValueError: a class is renamed that is not there.
    """
    new = {fold_name(old): given for old, given in rename.items()}
    known = {fold_name(own) for own in dataset.class_names}
    for old in rename:
        if fold_name(old) not in known:
            option = f"rename of the data set {name}"
            raise ValueError(no_such_class(old, dataset.class_names, option=option))
    joined = [fold_name(new.get(fold_name(own), own)) for own in dataset.class_names]
    class_names = list(dict.fromkeys(joined))
    return Relabelled(dataset, class_names, lookup([class_names.index(each) for each in joined]))


class JointDataset(SegmentationDataset):
    """Several data sets, one behind the other; its classes are those of all, in the order in which they appear.

    Its samples say which of the classes their set is annotated for.

    Args:
        sets: by name; classes of one name are one class.
        weights: how often each set is drawn in training, beside the others; by default by the square root of its
            length.

    Raises:
        ValueError: the sets have no class in common, or more classes than there are labels.
    """

    def __init__(self, sets: Mapping[str, SegmentationDataset], weights: Sequence[float] | None = None) -> None:
        self.sets = dict(sets)
        self.weights = weights
        self.class_names = list(dict.fromkeys(name for each in self.sets.values() for name in each.class_names))
        self._check_classes()
        self._names = list(self.sets)
        self._ends = list(accumulate(map(len, self.sets.values())))
        labels = [[self.class_names.index(name) for name in each.class_names] for each in self.sets.values()]
        self._tables = [lookup(each) for each in labels]
        self._known = torch.zeros(len(labels), len(self.class_names), dtype=torch.bool)
        for row, each in zip(self._known, labels, strict=True):
            row[each] = True

    def _check_classes(self) -> None:
        if len(self.class_names) > IGNORE_INDEX:
            raise ValueError(
                f"The data sets {', '.join(self.sets)} have {len(self.class_names)} classes together, which are more "
                f"than the {IGNORE_INDEX} that there are labels for; leave one out, or join classes by rename."
            )
        if len(self.sets) > 1 and len(self.class_names) == sum(len(each.class_names) for each in self.sets.values()):
            raise ValueError(
                f"The data sets {' and '.join(self.sets)} have no class in common, so that there is nothing to learn "
                "jointly; give classes that mean the same one name by rename, see python -m trainers.check_data."
            )

    def __len__(self) -> int:
        """Number of samples in all sets."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        number = bisect_right(self._ends, index)
        dataset = self.sets[self._names[number]]
        sample = dataset[index - self._ends[number] + len(dataset)]
        return replace(
            sample,
            label=self._tables[number][sample.label],
            name=f"{self._names[number]}/{sample.name}",
            known=self._known[number],
        )

    @property
    def shares(self) -> dict[str, float]:
        """The part of the training's samples that comes from each set."""
        weights = self.weights or [len(each) ** 0.5 for each in self.sets.values()]
        return {name: weight / sum(weights) for name, weight in zip(self.sets, weights, strict=True)}

    def order(self, seed: int) -> SampleOrder:
        """The sets in turn by their weights, each set shuffled."""
        return WeightedOrder([len(each) for each in self.sets.values()], list(self.shares.values()), seed)

    def over(self, sets: Mapping[str, SegmentationDataset]) -> Self:
        """The same of other samples, which have the classes of the present ones."""
        return type(self)(sets, self.weights)
