"""Mean and standard deviation of each band of a dataset's images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainers.data.batch import SegmentationDataset, unit_values
from trainers.data.findings import in_order
from trainers.foundation.processes import from_first_process

ROWS = 256
"""Rows of an image that are looked at at a time."""

Numbers = tuple[float, ...]


class _Sums(Dataset[Tensor]):
    """Of each image, (3,C) float64: how many values a band has, their sum, and the sum of their squares."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Tensor:
        image = self.dataset[index].image
        sums = torch.zeros(3, len(image), dtype=torch.float64)
        for rows in image.split(ROWS, 1):
            values = unit_values(rows).double().flatten(1)
            sums += torch.stack([torch.ones_like(values).sum(1), values.sum(1), values.square().sum(1)])
        return sums


def band_statistics(dataset: SegmentationDataset, *, num_workers: int) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of each of C bands over all pixels of all images, of `unit_values`.

    Of several processes the first one reads. How many processes read makes no difference.

    Args:
        dataset: the images, all of which can be read.
        num_workers: processes that read; 0 reads in this one.

    Raises:
        OSError: an image cannot be read any more, or a band has one value everywhere.
    """
    mean, std = from_first_process(lambda: _measure(dataset, num_workers))
    return tuple(mean), tuple(std)


def _measure(dataset: SegmentationDataset, num_workers: int) -> list[list[float]]:
    images = in_order(_Sums(dataset), range(len(dataset)), num_workers=num_workers, title="measure")
    count, total, squares = torch.stack(list(images)).sum(0)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    constant = std <= 1e-6 * mean.abs()  # as near as rounding lets float32 be
    if constant.any():
        bands = ", ".join(str(band) for band, same in enumerate(constant.tolist(), start=1) if same)
        raise ValueError(
            f"All training images have one and the same value in band {bands}; leave it out of the files, or set "
            "--data.mean and --data.std."
        )
    return [mean.tolist(), std.tolist()]
