"""What a model is trained on: mask losses for "mtaclip", pixel losses for its peers, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import ignite.distributed as idist
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip_plugin import MTACLIPLoss
from trainers.data.batch import IGNORE_INDEX
from trainers.engine.forward import Forward


@dataclass(frozen=True)
class Part:
    """A part of a process's batch.

    Attributes:
        images: (b, C, H, W), see `trainers.data.batch.Batch`.
        labels: (b, H, W) int64 class ids, or 255 for pixels without a label.
        batch_labels: (B, H, W), those of the whole batch of this process.
        generators: b sources of random numbers, one for each sample.
        known: (b, K) bool, the classes that each image is annotated for; ``None`` for all.
    """

    images: Tensor
    labels: Tensor
    batch_labels: Tensor
    generators: Sequence[torch.Generator]
    known: Tensor | None = None


class Criterion(nn.Module, ABC):
    """Runs the model on a part of a batch and says what is wrong with the result.

    The gradients of all parts, summed, and averaged over the processes as ``DistributedDataParallel`` does, are those
    of one batch of all samples, as far as the model treats each sample on its own.
    """

    @abstractmethod
    def forward(self, model: Forward, part: Part) -> dict[str, Tensor]:
        """Weighted loss terms, scalars whose sum is the part's share of the loss.

        Args:
            model: The model that is trained.
            part: What it is trained on.
        """


class MaskCriterion(Criterion):
    """The losses of MTA-CLIP on the model's masks.

    Args:
        **options: Those of `mtaclip_plugin.MTACLIPLoss`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.loss = MTACLIPLoss(ignore_index=IGNORE_INDEX, **options)

    def forward(self, model: Forward, part: Part) -> dict[str, Tensor]:
        """The terms of each prediction, see `MTACLIPLoss.terms`."""
        prediction = model(part.images, return_masks=True)
        normalizers = None
        if len(part.labels) < len(part.batch_labels):  # else the loss finds them on its own way
            _, num_queries, columns = prediction.class_logits.shape
            normalizers = self.loss.normalizers(part.batch_labels, num_queries=num_queries, num_classes=columns - 1)
        return self.loss.terms(prediction, part.labels, part.generators, normalizers, part.known)


class PixelCriterion(Criterion):
    """Cross-entropy + dice on the model's logits (B, K, H, W).

    The dice of a class is a ratio of sums over pixels, so it is the one thing that depends on how a batch is split.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE_INDEX)

    def forward(self, model: Forward, part: Part) -> dict[str, Tensor]:
        """Terms "cross_entropy" (mean over the labelled pixels; 0 if there is none) and "dice" (mean over parts)."""
        return self.terms(model(part.images), part)

    def terms(self, logits: Tensor, part: Part) -> dict[str, Tensor]:
        """The terms of logits (b, K, H, W)."""
        return {
            "cross_entropy": mean_cross_entropy(logits, part),
            "dice": self.dice(logits.float(), part.labels) * (len(part.labels) / len(part.batch_labels)),
        }


def mean_cross_entropy(logits: Tensor, part: Part) -> Tensor:
    """A part's share of the cross-entropy, whose mean is over the labelled pixels of all processes' batches.

    Args:
        logits: (b, K, H, W), of any precision.
        part: What they are the logits of.

    Returns:
        A scalar; 0 if no pixel has a label.
    """
    labelled = cast("Tensor", idist.all_reduce((part.batch_labels != IGNORE_INDEX).sum()))
    cross_entropy = F.cross_entropy(logits.float(), part.labels, ignore_index=IGNORE_INDEX, reduction="sum")
    # Without labels the sum is 0 as well.
    return cross_entropy * idist.get_world_size() / labelled.clamp(min=1)


_FACTORIES: dict[str, Callable[..., Criterion]] = {"mtaclip": MaskCriterion}


def register_criterion(arch: str, factory: Callable[..., Criterion]) -> None:
    """Gives an architecture a criterion of its own, in the place of the one that it has.

    Args:
        arch: Its name; smp reads names of architectures in any case.
        factory: Is called with the options of `trainers.options.model_config.LossConfig` as keywords.
    """
    _FACTORIES[arch.lower()] = factory


def build_criterion(arch: str, **options: Any) -> Criterion:
    """The criterion of an architecture: its own where there is one, else a `PixelCriterion`, which has no options."""
    factory = _FACTORIES.get(arch.lower())
    return PixelCriterion() if factory is None else factory(**options)
