"""Images that are not annotated for every class: what their losses leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.losses.points import PointSource, random_points, sample_features, sample_labels
from mtaclip_plugin.losses.targets import MaskTargets
from mtaclip_plugin.structures import MaskPrediction, full_precision


def check_known(known: Tensor, targets: MaskTargets) -> None:
    """Checks which classes each image is annotated for.

    Args:
        known: (B, K) bool.
        targets: whose labels must be of known classes.

    Raises:
        ValueError: If it is something else, or an image holds a class that it is not annotated for.
    """
    expected = (len(targets.classes), targets.num_classes)
    if known.dtype != torch.bool or known.shape != expected:
        raise ValueError(f"known must be (B, K) = {expected} bool, got {known.dtype} of shape {tuple(known.shape)}.")
    for image, (row, classes) in enumerate(zip(known.tolist(), targets.classes, strict=True)):
        if unknown := [k for k in classes if not row[k]]:
            raise ValueError(
                f"image {image} of the batch holds the class {unknown[0]}, which known says it is not annotated for: "
                "set known there, or map its pixels to ignore_index."
            )


def without_unknown(layers: Sequence[MaskPrediction], known: Tensor) -> list[MaskPrediction]:
    """Predictions whose columns of unknown classes are left out of every softmax, by -inf.

    Args:
        layers: S predictions.
        known: (B, K) bool.
    """
    unknown = torch.cat([~known, torch.zeros_like(known[:, :1])], 1)  # "none" is known everywhere

    def left_out(layer: MaskPrediction) -> MaskPrediction:
        text_logits = layer.text_logits
        return replace(
            layer,
            class_logits=layer.class_logits.masked_fill(unknown[:, None], -torch.inf),
            text_logits=None if text_logits is None else text_logits.masked_fill(unknown[:, None, None], -torch.inf),
        )

    return [left_out(layer) for layer in layers]


@torch.no_grad()
def labelled_shares(
    layers: Sequence[MaskPrediction],
    targets: MaskTargets,
    labels: Tensor,
    known: Tensor,
    num_points: int,
    generator: PointSource = None,
    *,
    by_class: bool = False,
) -> Tensor:
    """How far the labels of queries are the truth: of "none", the share of the query's mask that lies on labels.

    What lies under the rest of its mask may be of a class that the image is not annotated for. In an image that is
    annotated for all classes, "none" is the truth wherever the mask lies; so it is of a query that can be of one class
    alone, which the image is annotated for.

    Args:
        layers: S predictions that share their mask features.
        targets: the label maps.
        labels: (S, B, Q) class of each query, K for "none".
        known: (B, K) bool.
        num_points: random points at which shares are taken.
        generator: source of the points; see ``PointSource``.
        by_class: whether query k can be of class k alone.

    Returns:
        (S, B, Q) in [0, 1].
    """
    features = layers[-1].mask_features
    points = random_points(len(features), num_points, device=features.device, generator=generator)
    images = torch.arange(len(features), device=features.device)
    no_class = images.new_empty(len(features), 0)
    sampled = sample_labels(targets.label_map, points, no_class, image=images, ignore_index=targets.ignore_index)
    embed = full_precision(torch.stack([layer.mask_embed for layer in layers]))
    masks = (embed @ sample_features(features, points)).sigmoid()
    on_labels = (masks @ sampled.valid.to(masks.dtype)[:, :, None]).squeeze(3)
    shares = on_labels / masks.sum(3).clamp(min=torch.finfo(masks.dtype).tiny)
    certain = (labels != known.shape[1]) | known.all(1)[:, None]
    if by_class:
        certain |= F.pad(known, (0, labels.shape[2] - known.shape[1]), value=True)
    return torch.where(certain, 1, shares)
