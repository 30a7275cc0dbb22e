"""Loaders whose batches depend on the seed and the iteration only, never on a worker's state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
from torch.utils.data import DataLoader, Sampler

from trainers.data.batch import Batch, SegmentationDataset, collate
from trainers.data.cut import CutKey, RandomCutDataset
from trainers.data.orders import SampleOrder
from trainers.foundation.signals import leave_group


class IterationBatchSampler(Sampler[list[CutKey]]):
    """The batches of iterations ``start_iteration`` to ``iterations - 1``, for one rank.

    The run is one long stream of samples. Iteration i takes its batch from the stream's fixed places, so a run can
    start anywhere in it.

    Args:
        order: the stream.
        batch_size: B, of one rank.
        iterations: where the run ends.
        start_iteration: where it starts.
        rank: this process's place among ``world_size``.
        world_size: number of processes; each takes its own part of the iteration's samples.
    """

    def __init__(
        self,
        *,
        order: SampleOrder,
        batch_size: int,
        iterations: int,
        start_iteration: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.order = order
        self.batch_size = batch_size
        self.iterations = iterations
        self.start_iteration = start_iteration
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Number of batches left in the run."""
        return self.iterations - self.start_iteration

    def __iter__(self) -> Iterator[list[CutKey]]:
        """Yield one list of B keys an iteration."""
        for iteration in range(self.start_iteration, self.iterations):
            keys = []
            for slot in range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size):
                place = iteration * self.batch_size * self.world_size + slot
                keys.append(CutKey(index=self.order(place), iteration=iteration, slot=slot))
            yield keys


def create_train_loader(
    dataset: SegmentationDataset,
    *,
    batch_size: int,
    cut_size: tuple[int, int],
    iterations: int,
    num_workers: int,
    seed: int,
    start_iteration: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Batches of random windows for the iterations from ``start_iteration`` on.

    Iteration i of a resumed loader equals iteration i of a fresh one bit for bit, whatever ``num_workers``.

    Args:
        dataset: the samples.
        batch_size: B, of one rank.
        cut_size: (H,W) of every batch; smaller images are padded.
        iterations: number of iterations in the whole run.
        num_workers: processes that decode and cut; 0 works in this one.
        seed: what all randomness derives from.
        start_iteration: the iterations that are already done.
        rank: this process's place among ``world_size``.
        world_size: number of training processes.
        pin_memory: copy batches into page-locked memory.

    Raises:
        ValueError: there is nothing to load, or the run would start after its end.
    """
    if len(dataset) == 0 or batch_size < 1:
        raise ValueError(f"Cannot make batches of {batch_size} from {len(dataset)} samples; both must be 1 or more.")
    if not 0 <= start_iteration <= iterations:
        raise ValueError(f"A run of {iterations} iterations cannot start after {start_iteration}; raise iterations.")
    sampler = IterationBatchSampler(
        order=dataset.order(seed),
        batch_size=batch_size,
        iterations=iterations,
        start_iteration=start_iteration,
        rank=rank,
        world_size=world_size,
    )
    loader = DataLoader(
        RandomCutDataset(dataset, cut_size=cut_size, seed=seed),
        batch_sampler=sampler,
        collate_fn=partial(collate, size=cut_size),
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=leave_group,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the global generator
    )
    return cast("DataLoader[Batch]", loader)


def create_eval_loader(
    dataset: SegmentationDataset,
    *,
    batch_size: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Whole images in order, padded to the largest of their batch; over all ranks every sample exactly once.

    Args:
        dataset: the samples.
        batch_size: B, of one rank; the last batch may be smaller.
        num_workers: processes that decode; 0 works in this one.
        rank: this process's place among ``world_size``.
        world_size: number of processes.
        pin_memory: copy batches into page-locked memory.
    """
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(rank, len(dataset), world_size),
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=leave_group,
        generator=torch.Generator(),
    )
    return cast("DataLoader[Batch]", loader)
