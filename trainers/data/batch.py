"""One sample, one batch, and the way from the first to the second."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainers.data.orders import SampleOrder, ShuffledOrder

IGNORE_INDEX: Final = 255
"""The label of pixels that no loss and no metric looks at."""
FULL_SCALE: Final = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}
"""What the values of images are divided by, by the type that they are stored in."""


@dataclass(frozen=True)
class Sample:
    """An image and its label map.

    Attributes:
        image: (C,H,W) uint8, uint16 or float32: red, green and blue, or any bands.
        label: (H,W) int64, class ids or ``IGNORE_INDEX``.
        name: what messages and written files call the sample.
        known: (K,) bool, the classes that the sample is annotated for; ``None`` for all.
    """

    image: Tensor
    label: Tensor
    name: str
    known: Tensor | None = None


class SegmentationDataset(Dataset[Sample], ABC):
    """A dataset that knows its length and the names of its K classes, in the order of their ids."""

    class_names: list[str]

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    def order(self, seed: int) -> SampleOrder:
        """In which order training sees the samples."""
        return ShuffledOrder(len(self), seed)


@dataclass(frozen=True)
class Batch:
    """Samples padded at the right and at the bottom to one size.

    A loader's batch is as small as what it holds allows, for its way from process to process and to the device;
    `to` makes numbers of it, there.

    Attributes:
        images: (B,C,H,W), as the samples store them, if all do so in one type, or as `unit_values` gives them.
        labels: (B,H,W) uint8 or int64, class ids or ``IGNORE_INDEX``.
        names: the B samples' names.
        sizes: the B samples' own (height, width), before the padding.
        dtypes: what the B images were stored as, where that is known.
        known: (B,K) bool, the classes that each image is annotated for; ``None`` for all.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    dtypes: tuple[torch.dtype, ...] = ()
    known: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Move the tensors to ``device``, and there make `unit_values` of the images and int64 of the labels."""
        return replace(
            self,
            images=unit_values(self.images.to(device, non_blocking=non_blocking)),
            labels=self.labels_on(device, non_blocking=non_blocking),
            known=None if self.known is None else self.known.to(device, non_blocking=non_blocking),
        )

    def labels_on(self, device: torch.device | str, *, non_blocking: bool = True) -> Tensor:
        """The labels (B,H,W) as int64 on ``device``."""
        return self.labels.to(device, non_blocking=non_blocking).long()

    def pin_memory(self) -> Batch:
        """Copy the tensors into page-locked memory; the data loader calls this by its name."""
        known = None if self.known is None else self.known.pin_memory()
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory(), known=known)


def unit_values(images: Tensor) -> Tensor:
    """Images as numbers, float32: those of 8 and of 16 bits between 0 and 1, float32 in their own unit."""
    return images if images.dtype == torch.float32 else images.float().div_(FULL_SCALE[images.dtype])


def collate(samples: Sequence[Sample], *, size: tuple[int, int] | None = None) -> Batch:
    """Pad samples to one size and stack them; images are padded with zeros, labels with ``IGNORE_INDEX``.

    Args:
        samples: B samples of any sizes.
        size: (H,W) of the batch; the largest height and the largest width among the samples if not given.
    """
    sizes = tuple((sample.image.shape[1], sample.image.shape[2]) for sample in samples)
    height, width = size or (max(h for h, _ in sizes), max(w for _, w in sizes))
    dtypes = tuple(sample.image.dtype for sample in samples)
    dtype = dtypes[0] if len(set(dtypes)) == 1 else torch.float32
    images = torch.zeros(len(samples), samples[0].image.shape[0], height, width, dtype=dtype)
    labels = torch.full((len(samples), height, width), IGNORE_INDEX, dtype=_label_dtype(samples))
    for i, (sample, (h, w)) in enumerate(zip(samples, sizes, strict=True)):
        images[i, :, :h, :w] = sample.image if sample.image.dtype == dtype else unit_values(sample.image)
        labels[i, :h, :w] = sample.label
    known = [sample.known for sample in samples if sample.known is not None]
    return Batch(
        images=images,
        labels=labels,
        names=tuple(sample.name for sample in samples),
        sizes=sizes,
        dtypes=dtypes,
        known=torch.stack(known) if known else None,
    )


def _label_dtype(samples: Sequence[Sample]) -> torch.dtype:
    """uint8, an eighth of what labels are as numbers; int64 where an id is none that it can hold, to be refused."""
    extremes = [torch.aminmax(sample.label) for sample in samples if sample.label.numel()]
    fits = all(least >= 0 and most <= IGNORE_INDEX for least, most in extremes)
    return torch.uint8 if fits else torch.int64
