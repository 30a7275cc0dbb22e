"""From mask predictions to scores and logits of every pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mtaclip_plugin.inference.bands import full_masks, in_one_piece, mask_bands
from mtaclip_plugin.structures import MaskPrediction

Classification = Literal["learned", "text", "ensemble"]


def class_probabilities(prediction: MaskPrediction, classification: Classification = "learned") -> Tensor:
    """How likely each mask shows each class.

    Args:
        prediction: the model's prediction.
        classification: ``"learned"``, softmax of the class head, as in the paper; ``"text"``, softmax over the
            classes of each class's most similar prompt; ``"ensemble"``, their geometric mean, renormalised.

    Returns:
        (B, Q, K+1) float32 probabilities; the last column is "none".

    Raises:
        ValueError: if text is asked for and the prediction has none.
    """
    learned = prediction.class_logits.float()
    if classification == "learned":
        return learned.softmax(-1)
    if prediction.text_logits is None:
        raise ValueError(f"classification='{classification}' needs text; build the model with a text_encoder")
    text = prediction.text_logits.float().amax(2)
    if classification == "text":
        return text.softmax(-1)
    return (0.5 * (learned.log_softmax(-1) + text.log_softmax(-1))).softmax(-1)


def semantic_scores(prediction: MaskPrediction, classification: Classification = "learned") -> Tensor:
    """Scores ``score_k(x) = sum_q p_q(k) · sigmoid(mask_q(x))`` over the K classes.

    Args:
        prediction: the model's prediction.
        classification: see ``class_probabilities``.

    Returns:
        (B, K, H, W) float32 scores of the image as it was given, padding cut off; 0 or more, not normalised.
    """
    return _of_scores(lambda scores: scores, prediction, classification)


def semantic_logits(prediction: MaskPrediction, classification: Classification = "learned") -> Tensor:
    """``scores_to_logits`` of ``semantic_scores``: what ``model(images)`` gives.

    Args:
        prediction: the model's prediction.
        classification: see ``class_probabilities``.

    Returns:
        (B, K, H, W) float32 logits of the image as it was given.
    """
    return _of_scores(scores_to_logits, prediction, classification)


@torch.no_grad()
def semantic_labels(prediction: MaskPrediction, classification: Classification = "learned") -> Tensor:
    """The class of the highest score at each pixel, found without scores, or masks, of the whole image.

    Args:
        prediction: the model's prediction.
        classification: see ``class_probabilities``.

    Returns:
        (B, H, W) int64 class ids; for K = 1, whether the score is above 1/2, see ``scores_to_logits``.
    """
    probabilities = class_probabilities(prediction, classification)[..., :-1]
    if in_one_piece():
        return _labels(probabilities, full_masks(prediction))
    bands = mask_bands(prediction, num_classes=probabilities.shape[-1])
    return torch.cat([_labels(probabilities, masks) for _, masks in bands], 1)


def scores_to_logits(scores: Tensor) -> Tensor:
    """Logits that every loss and metric in multiclass (K > 1) or binary (K = 1) mode reads right.

    Args:
        scores: (B, K, H, W) float32 scores, 0 or more.

    Returns:
        (B, K, H, W): the log of the scores, whose softmax is the score normalised over the classes. A single class
        competes with a background of score 1/2: the sigmoid of its logit is above 1/2 where the score is. (The
        logit of the score itself would not train: scores of many masks start above 1, where it has no gradient.)
    """
    logits = scores.clamp(min=torch.finfo(scores.dtype).tiny).log()
    return logits if scores.shape[1] > 1 else logits - math.log(0.5)


def _of_scores(
    function: Callable[[Tensor], Tensor], prediction: MaskPrediction, classification: Classification
) -> Tensor:
    """``function``, which works on each pixel alone, of the scores: of no more than a band of them, if it may be."""
    probabilities = class_probabilities(prediction, classification)[..., :-1]
    if in_one_piece(probabilities, prediction.mask_embed, prediction.mask_features):
        return function(_scores(probabilities, full_masks(prediction)))
    batch, _, num_classes = probabilities.shape
    result = probabilities.new_empty(batch, num_classes, *prediction.image_size)
    for rows, masks in mask_bands(prediction, num_classes=num_classes):
        result[:, :, rows] = function(_scores(probabilities, masks))
    return result


def _scores(probabilities: Tensor, masks: Tensor) -> Tensor:
    """(B, K, rows, W) scores of probabilities (B, Q, K) and masks (B, Q, rows, W)."""
    with torch.autocast(masks.device.type, enabled=False):  # small scores must not be rounded away
        return torch.einsum("bqk,bqhw->bkhw", probabilities, masks)


def _labels(probabilities: Tensor, masks: Tensor) -> Tensor:
    """(B, rows, W) class ids of probabilities (B, Q, K) and masks (B, Q, rows, W)."""
    with torch.autocast(masks.device.type, enabled=False):
        scores = masks.flatten(2).transpose(1, 2) @ probabilities  # a pixel's classes side by side: a fast argmax
    labels = scores.argmax(-1) if scores.shape[-1] > 1 else (scores_to_logits(scores.mT) > 0).long().squeeze(1)
    return labels.unflatten(1, masks.shape[2:])
