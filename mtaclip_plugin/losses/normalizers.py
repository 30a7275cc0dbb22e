"""What the sums of the losses are divided by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from statistics import fmean

import torch
import torch.distributed as dist

from mtaclip_plugin.losses.targets import MaskTargets


@dataclass(frozen=True)
class LossNormalizers:
    """Divisors of the losses, known from the targets alone; those of several micro-batches add up with ``+``.

    Attributes:
        masks: number of matched masks, for the mask losses.
        class_weights: summed class weights of all queries, for the class loss and the contrastive loss.
        pixels: number of labelled pixels, for the pixels' cross-entropy; 0 where that is not asked for.
    """

    masks: float
    class_weights: float
    pixels: float = 0.0

    @classmethod
    def of(
        cls, targets: MaskTargets, num_queries: int, class_weights: Sequence[float], *, count_pixels: bool
    ) -> LossNormalizers:
        """The divisors of one batch in this process.

        Args:
            targets: the masks.
            num_queries: Q.
            class_weights: K+1 weights, the last of them for "none".
            count_pixels: whether pixels are asked for.
        """
        counts = targets.mask_counts(num_queries)
        matched = sum(
            count * fmean(class_weights[k] for k in classes)
            for classes, count in zip(targets.classes, counts, strict=True)
            if classes
        )
        total = matched + class_weights[-1] * (num_queries * len(counts) - sum(counts))
        pixels = float(targets.labelled_pixels) if count_pixels else 0.0
        return cls(masks=float(sum(counts)), class_weights=total, pixels=pixels)

    def __add__(self, other: LossNormalizers) -> LossNormalizers:
        """The divisors of both batches together."""
        return LossNormalizers(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def averaged(self, device: torch.device) -> LossNormalizers:
        """The mean over all processes, which gradients averaged by DDP call for; never zero.

        Args:
            device: where the process group communicates.
        """
        sums, processes = torch.tensor(astuple(self), dtype=torch.float64), 1
        if dist.is_available() and dist.is_initialized():
            sums, processes = sums.to(device), dist.get_world_size()
            dist.all_reduce(sums)
        # Without any mask, or any weight, the sums that are divided are zero, but for masks that are to be empty.
        return LossNormalizers(*((value or 1.0) / processes for value in sums.tolist()))


def all_class_weights(class_weights: Sequence[float] | None, no_object_weight: float, num_classes: int) -> list[float]:
    """K+1 weights, the last of them for "none".

    Raises:
        ValueError: If there is not one for each class.
    """
    weights = [1.0] * num_classes if class_weights is None else class_weights
    if len(weights) != num_classes:
        raise ValueError(
            f"class_weights has {len(weights)} weights, but there are K={num_classes} classes: give one "
            'for each, and set that of "none" by no_object_weight.'
        )
    return [*weights, no_object_weight]
