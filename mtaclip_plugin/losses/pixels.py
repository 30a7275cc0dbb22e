"""The losses of pixels that are compared with text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.losses.targets import MaskTargets
from mtaclip_plugin.structures import MaskPrediction, full_precision


@dataclass(frozen=True)
class PixelLosses:
    """Sums over a batch, scalars.

    Attributes:
        cross_entropy: of the labelled pixels.
        dice: dice loss of every class that an image holds.
    """

    cross_entropy: Tensor
    dice: Tensor


def pixel_losses(prediction: MaskPrediction, targets: MaskTargets, *, known: Tensor | None = None) -> PixelLosses:
    r"""Cross-entropy and dice of the softmax over the classes at the size of the label map.

    The dice loss of class k in an image, over its labelled pixels, is
    :math:`1 - (2\sum_x p_k(x)\,[y(x)=k] + 1) / (\sum_x p_k(x) + \sum_x [y(x)=k] + 1)`: of each image by itself, so that
    sums of several processes and micro-batches add up to those of the whole batch.

    Args:
        prediction: with pixel logits.
        targets: the label map of the padded image.
        known: (B, K) bool, which classes take part in an image's softmax; all if ``None``.

    Raises:
        ValueError: If the prediction has no pixel logits.
    """
    if prediction.pixel_logits is None:
        raise ValueError(
            "the prediction has no pixel logits for pixel_weight to weigh: build the model with pixel_scores above 0, "
            "or set pixel_weight to 0."
        )
    labels = targets.label_map
    logits = full_precision(prediction.pixel_logits)
    logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    if known is not None:
        logits = logits.masked_fill(~known[:, :, None, None], -torch.inf)
    num_classes, valid = logits.shape[1], targets.labelled()
    classes = torch.where(valid, labels, 0).flatten(1)
    weights = valid.flatten(1).to(logits.dtype)

    log_p = logits.flatten(2).log_softmax(1)
    of_label = torch.where(valid.flatten(1), log_p.gather(1, classes[:, None])[:, 0], 0)
    zeros = logits.new_zeros(len(labels), num_classes)
    overlap = zeros.scatter_add(1, classes, of_label.exp() * weights)
    count = zeros.scatter_add(1, classes, weights)
    size = (log_p.exp() @ weights[:, :, None])[:, :, 0] + count
    dice = 1 - (2 * overlap + 1) / (size + 1)
    return PixelLosses(cross_entropy=-of_label.sum(), dice=dice.masked_fill(count == 0, 0).sum())
