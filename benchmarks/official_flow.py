"""The data flow of Mask2Former's family, on our own modules: the rules that spare memory and time switched off.

Masks of all mask and text tokens are made at the full grid at every layer; attention masks come from those and are
repeated for each head; matching and losses sample them; everything is kept for the backward pass. The results are
those of ``MTACLIP`` and ``MTACLIPLoss``, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mtaclip_plugin import MTACLIP, MTACLIPLoss
from mtaclip_plugin.decoder import heads, layers, pixel_decoder
from mtaclip_plugin.decoder.deformable import attention, grid_sampling
from mtaclip_plugin.decoder.layers import MaskTextDecoderLayer
from mtaclip_plugin.decoder.mask_text_decoder import MaskTextDecoder
from mtaclip_plugin.decoder.pixel_decoder import PixelFeatures
from mtaclip_plugin.encoders import encode
from mtaclip_plugin.losses import (
    MaskTargets,
    class_loss,
    contrastive_loss,
    mask_bce_loss,
    mask_dice_loss,
    pairwise_mask_bce,
    pairwise_mask_dice,
    random_points,
    sample_features,
    sample_labels,
    uncertain_points,
)


@dataclass(frozen=True)
class FullPrediction:
    """A layer's prediction with all of its masks.

    Attributes:
        class_logits: (B, Q, K+1).
        mask_logits: (B, N, h, w) of mask tokens, then text tokens.
        text_logits: (B, Q, P, K+1); ``None`` without text.
    """

    class_logits: Tensor
    mask_logits: Tensor
    text_logits: Tensor | None


@contextmanager
def everything_kept() -> Iterator[None]:
    """Within it modules keep all that they compute for the backward pass, and sample by ``grid_sample``."""

    def kept(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        return function(*inputs)

    with ExitStack() as stack:
        for module in (attention, grid_sampling, heads, pixel_decoder):
            stack.enter_context(patch.object(module, "recomputed", kept))
        stack.enter_context(patch.object(attention, "deformable_sampling", grid_sampling.grid_sampling))
        stack.enter_context(patch.object(layers, "mask_kept_as_bool", lambda *_: ExitStack()))
        yield


def official_loss(
    model: MTACLIP, criterion: MTACLIPLoss, images: Tensor, target: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """The loss of a training step.

    Args:
        model: with images of a size that it does not pad.
        criterion: with its default options, but for the number of points.
        images: (B, C, H, W).
        target: (B, H, W) int64.
        generator: source of the points.
    """
    with everything_kept():
        decoder = model.decoder
        features = decoder.pixel_decoder(decoder.pyramid(encode(model.encoder, images)))
        predictions = predict(decoder.mask_text_decoder, features, model._current_text())
    num_queries, columns = predictions[0].class_logits.shape[1:]
    targets = MaskTargets.from_label_map(target, num_classes=columns - 1, ignore_index=criterion.ignore_index)
    divisors = criterion.normalizers(target, num_queries=num_queries, num_classes=columns - 1)
    weights = torch.tensor([1.0] * (columns - 1) + [criterion.no_object_weight], device=images.device)

    batch, num_points = len(images), criterion.num_points
    points = random_points(batch, num_points, device=images.device, generator=generator)
    num_uncertain = int(criterion.importance_ratio * num_points)
    candidates = random_points(
        batch, int(num_points * criterion.oversample_ratio), device=images.device, generator=generator
    )
    others = random_points(batch, num_points - num_uncertain, device=images.device, generator=generator)

    loss = torch.zeros((), device=images.device)
    for prediction in predictions:
        labels = torch.full((batch, num_queries), columns - 1, device=images.device)
        for image, classes in enumerate(targets.classes):
            here = torch.tensor([image], device=images.device)
            ids = torch.tensor([list(classes)], dtype=torch.int64, device=images.device)
            queries = _match(prediction, targets, points, criterion, here, ids)
            labels[image, queries] = ids[0]
            masks = prediction.mask_logits[image, queries]
            rows = here.expand(len(classes))
            valid = sample_labels(
                targets.label_map, candidates[rows], ids.T[:, :0], image=rows, ignore_index=targets.ignore_index
            ).valid
            uncertain = uncertain_points(masks.detach(), candidates[rows], valid, num_points=num_uncertain)
            chosen = torch.cat([uncertain, others[rows]], 1)
            sampled = sample_labels(targets.label_map, chosen, ids.T, image=rows, ignore_index=targets.ignore_index)
            logits = sample_features(masks[:, None], chosen)[:, 0]
            bce = mask_bce_loss(logits, sampled.targets[:, 0], sampled.valid).sum()
            dice = mask_dice_loss(logits, sampled.targets[:, 0], sampled.valid).sum()
            loss = loss + (criterion.mask_weight * bce + criterion.dice_weight * dice) / divisors.masks
        loss = loss + criterion.class_weight * class_loss(
            prediction.class_logits.float().flatten(0, 1), labels.flatten(), weights, normalizer=divisors.class_weights
        )
        if prediction.text_logits is not None:
            loss = loss + criterion.contrastive_weight * contrastive_loss(
                prediction.text_logits.float().flatten(0, 1),
                labels.flatten(),
                weights[labels.flatten()],
                mode=criterion.contrastive_mode,
                normalizer=divisors.class_weights,
            )
    return loss


def predict(decoder: MaskTextDecoder, features: PixelFeatures, text: Tensor | None) -> list[FullPrediction]:
    """The decoder's predictions before the first layer and after each one."""
    tokens, positions = decoder._tokens(text)
    tokens = tokens.expand(len(features.mask_features), -1, -1)
    memories, keys = decoder._memories(features)
    predictions = [_read(decoder, tokens, features, text)]
    for index, layer in enumerate(cast(Sequence[MaskTextDecoderLayer], decoder.layers)):
        level = index % len(memories)
        size = features.memories[level].shape[-2:]
        logits = F.interpolate(predictions[-1].mask_logits.detach(), size=size, mode="bilinear", align_corners=False)
        mask = logits.flatten(2).sigmoid() >= 0.5
        mask[(~mask).all(-1)] = True
        mask = mask.unsqueeze(1).repeat(1, layer.cross_attention.num_heads, 1, 1)
        tokens = layer(tokens, positions, memories[level], keys[level], mask)
        predictions.append(_read(decoder, tokens, features, text))
    return predictions


def _read(decoder: MaskTextDecoder, tokens: Tensor, features: PixelFeatures, text: Tensor | None) -> FullPrediction:
    hidden = decoder.head.norm(tokens)
    mask_embed = decoder.head.mask_head(hidden)
    mask_logits = torch.einsum("bnd,bdhw->bnhw", mask_embed, features.mask_features)
    prediction = decoder.head(hidden, mask_embed[:, : decoder.num_queries], text)
    return FullPrediction(prediction.class_logits, mask_logits, prediction.text_logits)


def _match(
    prediction: FullPrediction,
    targets: MaskTargets,
    points: Tensor,
    criterion: MTACLIPLoss,
    image: Tensor,
    ids: Tensor,
) -> Sequence[int]:
    """The query of each class of an image."""
    here = int(image)
    num_queries = prediction.class_logits.shape[1]
    with torch.no_grad():
        logits = sample_features(prediction.mask_logits[image, :num_queries], points[image])
        sampled = sample_labels(targets.label_map, points[image], ids, image=image, ignore_index=targets.ignore_index)
        # The criterion's weights are those of its matcher's costs.
        cost = (
            -criterion.class_weight * prediction.class_logits[here].softmax(-1)[:, ids[0]]
            + criterion.mask_weight * pairwise_mask_bce(logits, sampled.targets, sampled.valid)[0]
            + criterion.dice_weight * pairwise_mask_dice(logits, sampled.targets, sampled.valid)[0]
        )
    queries: list[int] = linear_sum_assignment(cost.T.cpu().numpy())[1].tolist()
    return queries
