"""Head, middle and tail of the classes: how often training images show them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trainers.data.batch import SegmentationDataset
from trainers.data.findings import Finding, read_once

GROUPS = ("head", "middle", "tail")


def images_with_class(dataset: SegmentationDataset) -> NDArray[np.int64]:
    """(K) number of images that show each class; each label map is read once."""
    findings = read_once(dataset, num_workers=0, title="count classes")
    shown = [finding.counts > 0 for finding in findings if isinstance(finding, Finding)]
    return np.sum(shown, axis=0)[: len(dataset.class_names)]


def shown_classes(dataset: SegmentationDataset) -> list[str]:
    """The names of the classes that its images show: those that means are over, see `summarize`."""
    return [name for name, count in zip(dataset.class_names, images_with_class(dataset), strict=True) if count > 0]


def class_groups(images: Mapping[str, int]) -> dict[str, list[str]]:
    """A third of the classes each, from those in most images to those in fewest; classes in no image are left out.

    Args:
        images: number of images that show each class, by its name.
    """
    occurring = sorted((name for name in images if images[name] > 0), key=lambda name: -images[name])
    parts = np.array_split(np.array(occurring), len(GROUPS))
    return {group: part.tolist() for group, part in zip(GROUPS, parts, strict=True)}
