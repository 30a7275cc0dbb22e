"""What a model is trained on: mask losses for "mtaclip", pixel losses for its peers, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip_plugin import MTACLIPLoss
from trainers.data.batch import IGNORE_INDEX
from trainers.forward import Forward
from trainers.models import is_mtaclip


class Criterion(nn.Module, ABC):
    """Runs the model on a batch and says what is wrong with the result."""

    @abstractmethod
    def forward(self, model: Forward, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms, scalars whose sum is the loss.

        Args:
            model: The model that is trained.
            images: (B, 3, H, W) in [0, 1].
            labels: (B, H, W) int64 class ids, or 255 for pixels without a label.
        """


class MaskCriterion(Criterion):
    """The losses of MTA-CLIP on the model's masks.

    Args:
        **options: Those of `mtaclip_plugin.MTACLIPLoss`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.loss = MTACLIPLoss(ignore_index=IGNORE_INDEX, **options)

    def forward(self, model: Forward, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Terms "{i}/class", "{i}/mask", "{i}/dice" and, with text, "{i}/contrastive" of prediction i."""
        return self.loss.terms(model(images, return_masks=True), labels)


class PixelCriterion(Criterion):
    """Cross-entropy + dice on the model's logits (B, K, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE_INDEX)

    def forward(self, model: Forward, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Terms "cross_entropy" (mean over the labelled pixels; 0 if there is none) and "dice"."""
        logits = model(images).float()
        labelled = (labels != IGNORE_INDEX).sum().clamp(min=1)
        cross_entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum") / labelled
        return {"cross_entropy": cross_entropy, "dice": self.dice(logits, labels)}


def build_criterion(arch: str, **options: Any) -> Criterion:
    """The criterion of an architecture; ``options`` are those of "mtaclip", see `MaskCriterion`."""
    return MaskCriterion(**options) if is_mtaclip(arch) else PixelCriterion()
