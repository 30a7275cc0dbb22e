"""What the sums of the losses are divided by."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class LossNormalizers:
    """Divisors of the losses, known from the targets alone; those of several micro-batches add up with ``+``.

    Attributes:
        masks: number of matched masks, for the mask losses.
        class_weights: summed class weights of all queries, for the class loss and the contrastive loss.
    """

    masks: float
    class_weights: float

    def __add__(self, other: LossNormalizers) -> LossNormalizers:
        """The divisors of both batches together."""
        return LossNormalizers(self.masks + other.masks, self.class_weights + other.class_weights)

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
