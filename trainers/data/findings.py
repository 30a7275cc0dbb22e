"""What reading each sample of a dataset once finds: what is in it, or why it cannot be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import ignite.distributed as idist
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from trainers.data.batch import SegmentationDataset
from trainers.data.problems import Problem, problem_of
from trainers.foundation.progress import progress
from trainers.foundation.signals import leave_group

T = TypeVar("T")


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used.

    Attributes:
        index: the sample's index in the dataset.
        problem: why.
    """

    index: int
    problem: Problem


@dataclass(frozen=True)
class Finding:
    """What reading one sample found.

    Attributes:
        index: the sample's index in the dataset.
        name: the sample's name.
        size: (H,W) of the image.
        counts: (256,) pixels of each label.
        digest: of the image's decoded pixels: equal images have equal digests, whatever their files.
    """

    index: int
    name: str
    size: tuple[int, int]
    counts: NDArray[np.int64]
    digest: bytes


class _Findings(Dataset[Finding | BadSample]):
    """The findings in place of the samples, so that a loader's workers do the reading."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Finding | BadSample:
        try:
            sample = self.dataset[index]
        except (OSError, ValueError) as error:
            return BadSample(index, problem_of(error))
        height, width = sample.label.shape
        digest = hashlib.blake2b(f"{height}x{width}".encode(), digest_size=16)
        digest.update(sample.image.contiguous().numpy().data)
        counts = np.bincount(sample.label.numpy().ravel(), minlength=256)
        return Finding(index, sample.name, (height, width), counts, digest.digest())


def read_once(
    dataset: SegmentationDataset, *, num_workers: int, title: str, indices: Sequence[int] | None = None
) -> Iterator[Finding | BadSample]:
    """Read samples in order, with a progress bar on the first process.

    Args:
        dataset: the samples.
        num_workers: processes that read; 0 reads in this one.
        title: of the bar.
        indices: which samples; all if not given.
    """
    indices = range(len(dataset)) if indices is None else indices
    yield from in_order(_Findings(dataset), indices, num_workers=num_workers, title=title)


def in_order(dataset: Dataset[T], indices: Sequence[int], *, num_workers: int, title: str) -> Iterator[T]:
    """What a dataset has at ``indices``, made by ``num_workers`` processes, under a progress bar with this title."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=indices,
        num_workers=num_workers,
        worker_init_fn=leave_group,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the global generator
    )
    found = cast("Iterable[T]", loader)
    hidden = idist.get_rank() > 0
    yield from progress(found, title=title, total=len(indices), unit="image", leave=False, disable=hidden)
