"""The losses of matched masks, at points where they are uncertain, and of those that must stay empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.losses.functional import mask_bce_loss, mask_dice_loss
from mtaclip_plugin.losses.matcher import Matches
from mtaclip_plugin.losses.points import PointSource, random_points, sample_features, sample_labels, uncertain_points
from mtaclip_plugin.losses.targets import MaskTargets
from mtaclip_plugin.structures import MaskPrediction


@dataclass(frozen=True)
class MaskLosses:
    """Losses of each of S predictions, summed over masks.

    Attributes:
        bce: (S) binary cross-entropy of the N matched masks.
        dice: (S) their dice loss.
        empty_bce: (S) binary cross-entropy of the masks that must be empty; ``None`` if none was asked for.
    """

    bce: Tensor
    dice: Tensor
    empty_bce: Tensor | None


def mask_losses(
    predictions: Sequence[MaskPrediction],
    targets: MaskTargets,
    matches: Matches,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_ratio: float,
    empty: Tensor | None = None,
    generator: PointSource = None,
) -> MaskLosses:
    """Compares each matched mask with its target, at points of its own.

    All masks and predictions of an image share its candidates and its random points, so that neither the
    order of queries nor that of classes has a say in them; which are uncertain differs from mask to mask.
    Masks that must be empty are compared at the random points only: nowhere are they more worth a look.

    Args:
        predictions: S predictions that share their mask features.
        targets: the masks.
        matches: which query belongs to which mask.
        num_points: P points for each mask.
        oversample_ratio: candidates for the uncertain points, as a multiple of P.
        importance_ratio: share of the points that are uncertain ones; the rest is random.
        empty: (B, K) bool, which of the first K queries must have empty masks; they are not matched.
        generator: source of the points, on the predictions' device; see ``PointSource``.
    """
    batch, image = len(targets.classes), matches.image
    num_uncertain = int(importance_ratio * num_points)
    candidates = random_points(batch, int(num_points * oversample_ratio), device=image.device, generator=generator)
    others = random_points(batch, num_points - num_uncertain, device=image.device, generator=generator)
    empty_bce = None if empty is None else _empty_bce(predictions, targets, empty, others)
    valid = _valid(targets, candidates)[image]
    candidates, others = candidates[image], others[image]

    bce, dice = [], []
    for mask_logits, labels in zip(_matched_masks(predictions, matches), matches.labels, strict=True):
        uncertain = uncertain_points(mask_logits.detach(), candidates, valid, num_points=num_uncertain)
        points = torch.cat([uncertain, others], dim=1)
        sampled = sample_labels(
            targets.label_map, points, labels[:, None], image=image, ignore_index=targets.ignore_index
        )
        logits = sample_features(mask_logits[:, None], points)[:, 0]
        bce.append(mask_bce_loss(logits, sampled.targets[:, 0], sampled.valid).sum())
        dice.append(mask_dice_loss(logits, sampled.targets[:, 0], sampled.valid).sum())
    return MaskLosses(bce=torch.stack(bce), dice=torch.stack(dice), empty_bce=empty_bce)


def _matched_masks(predictions: Sequence[MaskPrediction], matches: Matches) -> tuple[Tensor, ...]:
    """(N, h, w) logits of the matched masks of each of S predictions; no others are computed.

    In a batch without masks they are empty, yet tied to the graph: all inputs get a gradient, of zeros.
    """
    mask_embed = torch.stack([prediction.mask_embed.float() for prediction in predictions])
    rows = torch.arange(len(predictions), device=matches.image.device)[:, None]
    matched = mask_embed[rows, matches.image, matches.queries].split(matches.counts, dim=1)
    features = predictions[-1].mask_features.float().unbind(0)
    masks = [torch.einsum("snd,dhw->snhw", *pair) for pair in zip(matched, features, strict=True)]
    return torch.cat(masks, dim=1).unbind(0)


def _empty_bce(predictions: Sequence[MaskPrediction], targets: MaskTargets, empty: Tensor, points: Tensor) -> Tensor:
    """(S) cross-entropy of masks with empty ones, the mean over an image's valid points, summed over masks."""
    # Sampling is linear: it commutes with the product by mask_embed, so all predictions share it.
    features = sample_features(predictions[-1].mask_features, points)
    mask_embed = torch.stack([prediction.mask_embed[:, : empty.shape[1]].float() for prediction in predictions])
    weights = _valid(targets, points).to(features.dtype)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    bce = (F.softplus(mask_embed @ features) @ weights[:, :, None]).squeeze(3)
    return bce.masked_fill(~empty, 0).sum((1, 2))


def _valid(targets: MaskTargets, points: Tensor) -> Tensor:
    """(B, P) bool of (B, P, 2) points, one row for each image."""
    images = torch.arange(len(points), device=points.device)
    no_class = images.new_empty(len(points), 0)
    return sample_labels(targets.label_map, points, no_class, image=images, ignore_index=targets.ignore_index).valid
