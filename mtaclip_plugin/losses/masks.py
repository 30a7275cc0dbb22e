"""The losses of matched masks, at points where they are uncertain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtaclip_plugin.losses.functional import mask_bce_loss, mask_dice_loss
from mtaclip_plugin.losses.matcher import Matches
from mtaclip_plugin.losses.points import PointSource, random_points, sample_features, sample_labels, uncertain_points
from mtaclip_plugin.losses.targets import MaskTargets
from mtaclip_plugin.structures import MaskPrediction


@dataclass(frozen=True)
class MaskLosses:
    """Losses of each of S predictions, summed over the N matched masks.

    Attributes:
        bce: (S) binary cross-entropy.
        dice: (S) dice loss.
    """

    bce: Tensor
    dice: Tensor


def mask_losses(
    predictions: Sequence[MaskPrediction],
    targets: MaskTargets,
    matches: Matches,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_ratio: float,
    generator: PointSource = None,
) -> MaskLosses:
    """Compares each matched mask with its target, at points of its own.

    All masks and predictions of an image share its candidates and its random points, so that neither the
    order of queries nor that of classes has a say in them; which are uncertain differs from mask to mask.

    Args:
        predictions: S predictions that share their mask features.
        targets: the masks.
        matches: which query belongs to which mask.
        num_points: P points for each mask.
        oversample_ratio: candidates for the uncertain points, as a multiple of P.
        importance_ratio: share of the points that are uncertain ones; the rest is random.
        generator: source of the points, on the predictions' device; see ``PointSource``.
    """
    batch, image = len(targets.classes), matches.image
    num_uncertain = int(importance_ratio * num_points)
    candidates = random_points(batch, int(num_points * oversample_ratio), device=image.device, generator=generator)
    others = random_points(batch, num_points - num_uncertain, device=image.device, generator=generator)[image]
    # Of the candidates only the validity is asked, so there are no classes.
    valid = sample_labels(
        targets.label_map,
        candidates,
        image.new_empty(batch, 0),
        image=torch.arange(batch, device=image.device),
        ignore_index=targets.ignore_index,
    ).valid
    candidates, valid = candidates[image], valid[image]

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
    return MaskLosses(bce=torch.stack(bce), dice=torch.stack(dice))


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
