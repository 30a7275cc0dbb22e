"""The losses of matched masks, at points where they are uncertain, and of those that must stay empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.losses.functional import mask_bce_loss, mask_dice_loss
from mtaclip_plugin.losses.matcher import Matches
from mtaclip_plugin.losses.points import (
    PointSource,
    SampledLabels,
    random_points,
    sample_features,
    sample_labels,
    uncertain_points,
)
from mtaclip_plugin.losses.targets import MaskTargets
from mtaclip_plugin.structures import MaskPrediction, full_precision, predictions_at_once


@dataclass(frozen=True)
class TextMaskLosses:
    """Losses of the text queries' masks in each of S predictions, summed over masks.

    Attributes:
        bce: (S) binary cross-entropy of the masks of the N classes whose masks are matched.
        dice: (S) their dice loss.
        empty_bce: (S) binary cross-entropy of the masks of absent classes, which must be empty.
    """

    bce: Tensor
    dice: Tensor
    empty_bce: Tensor


@dataclass(frozen=True)
class MaskLosses:
    """Losses of each of S predictions, summed over masks.

    Attributes:
        bce: (S) binary cross-entropy of the N matched masks.
        dice: (S) their dice loss.
        empty_bce: (S) binary cross-entropy of the masks that must be empty; ``None`` if none was asked for.
        text: losses of the text queries' masks; ``None`` if they were not asked for.
    """

    bce: Tensor
    dice: Tensor
    empty_bce: Tensor | None
    text: TextMaskLosses | None


def mask_losses(
    predictions: Sequence[MaskPrediction],
    targets: MaskTargets,
    matches: Matches,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_ratio: float,
    empty: Tensor | None = None,
    empty_text: Tensor | None = None,
    generator: PointSource = None,
) -> MaskLosses:
    """Compares each matched mask with its target, at points of its own.

    All masks and predictions of an image share its candidates and its random points, so that neither the
    order of queries nor that of classes has a say in them; which are uncertain differs from mask to mask.
    Masks that must be empty are compared at the random points only: nowhere are they more worth a look.
    The mask of a class's text queries is compared at the points of the query that is matched with its mask.

    Args:
        predictions: S predictions that share their mask features.
        targets: the masks.
        matches: which query belongs to which mask.
        num_points: P points for each mask.
        oversample_ratio: candidates for the uncertain points, as a multiple of P.
        importance_ratio: share of the points that are uncertain ones; the rest is random.
        empty: (B, K) bool, which of the first K queries must have empty masks; they are not matched.
        empty_text: (B, K) bool, of which classes the text queries' masks must be empty; ``None`` leaves text alone.
        generator: source of the points, on the predictions' device; see ``PointSource``.
    """
    batch, image = len(targets.classes), matches.image
    num_uncertain = int(importance_ratio * num_points)
    features = full_precision(predictions[-1].mask_features)
    mask_embed = full_precision(torch.stack([prediction.mask_embed for prediction in predictions]))
    draw = partial(random_points, batch, device=image.device, dtype=features.dtype, generator=generator)
    candidates, others = draw(int(num_points * oversample_ratio)), draw(num_points - num_uncertain)
    text_embed = None if empty_text is None else _text_embed(predictions)
    empty_bce = None if empty is None else _empty_bce(mask_embed, features, targets, empty, others)
    empty_text_bce = None
    if text_embed is not None and empty_text is not None:
        empty_text_bce = _empty_bce(text_embed, features, targets, empty_text, others)
    valid = _valid(targets, candidates)[image]
    candidates, others = candidates[image], others[image]

    masks = _chosen_masks(mask_embed, features, matches, matches.queries)
    text_masks = None if text_embed is None else _chosen_masks(text_embed, features, matches, matches.labels)
    step = predictions_at_once(candidates.shape[:2].numel(), image.device)
    sums, text_sums = [], []
    for start in range(0, len(masks), step):
        span = slice(start, start + step)
        of_masks = matches.labels[span]
        uncertain = uncertain_points(masks[span].detach(), candidates, valid, num_points=num_uncertain)
        points = torch.cat([uncertain, others.expand(len(of_masks), -1, -1, -1)], dim=2).flatten(0, 1)
        del uncertain  # which is as large as the labels at the points
        sampled = sample_labels(
            targets.label_map,
            points,
            of_masks.reshape(-1, 1),
            image=image.repeat(len(of_masks)),
            ignore_index=targets.ignore_index,
        )
        sums.append(_losses_at(masks[span], points, sampled))
        if text_masks is not None:
            text_sums.append(_losses_at(text_masks[span], points, sampled))
    bce, dice = torch.cat(sums, 1)
    text = None
    if empty_text_bce is not None:
        text_bce, text_dice = torch.cat(text_sums, 1)
        text = TextMaskLosses(bce=text_bce, dice=text_dice, empty_bce=empty_text_bce)
    return MaskLosses(bce=bce, dice=dice, empty_bce=empty_bce, text=text)


def _losses_at(masks: Tensor, points: Tensor, truth: SampledLabels) -> Tensor:
    """(2, S) cross-entropy and dice loss of (S, N, h, w) masks at (S·N, P, 2) points, summed over masks."""
    logits = sample_features(masks.flatten(0, 1)[:, None], points)[:, 0]
    losses = [loss(logits, truth.targets[:, 0], truth.valid) for loss in (mask_bce_loss, mask_dice_loss)]
    return torch.stack([of_masks.unflatten(0, masks.shape[:2]).sum(1) for of_masks in losses])


def _text_embed(predictions: Sequence[MaskPrediction]) -> Tensor:
    """(S, B, K, D) mask embeddings of the classes' text queries."""
    embeds = [prediction.text_mask_embed for prediction in predictions]
    if any(embed is None for embed in embeds):
        raise ValueError(
            "the prediction has no masks of text queries for text_mask_weight to weigh: build the model with "
            "text_masks above 0, or set text_mask_weight to 0."
        )
    return full_precision(torch.stack([embed for embed in embeds if embed is not None]))


def _chosen_masks(embed: Tensor, features: Tensor, matches: Matches, chosen: Tensor) -> Tensor:
    """(S, N, h, w) logits of one mask for each match, in each of S predictions; no others are computed.

    In a batch without masks they are empty, yet tied to the graph: all inputs get a gradient, of zeros.

    Args:
        embed: (S, B, M, D) mask embeddings.
        features: (B, D, h, w).
        matches: the image of each mask.
        chosen: (S, N) which of the M embeddings.
    """
    rows = torch.arange(len(embed), device=chosen.device)[:, None]
    of_images = embed[rows, matches.image, chosen].split(matches.counts, dim=1)
    masks = [torch.einsum("snd,dhw->snhw", *pair) for pair in zip(of_images, features.unbind(0), strict=True)]
    return torch.cat(masks, dim=1)


def _empty_bce(embed: Tensor, features: Tensor, targets: MaskTargets, empty: Tensor, points: Tensor) -> Tensor:
    """(S) cross-entropy of masks with empty ones, the mean over an image's valid points, summed over masks.

    Args:
        embed: (S, B, M, D) mask embeddings, of which the first K count.
        features: (B, D, h, w).
        targets: which points are valid.
        empty: (B, K) bool.
        points: (B, P, 2).
    """
    # Sampling is linear: it commutes with the product by mask_embed, so all predictions share it.
    features = sample_features(features, points)
    mask_embed = embed[:, :, : empty.shape[1]]
    weights = _valid(targets, points).to(features.dtype)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    bce = (F.softplus(mask_embed @ features) @ weights[:, :, None]).squeeze(3)
    return bce.masked_fill(~empty, 0).sum((1, 2))


def _valid(targets: MaskTargets, points: Tensor) -> Tensor:
    """(B, P) bool of (B, P, 2) points, one row for each image."""
    images = torch.arange(len(points), device=points.device)
    no_class = images.new_empty(len(points), 0)
    return sample_labels(targets.label_map, points, no_class, image=images, ignore_index=targets.ignore_index).valid
