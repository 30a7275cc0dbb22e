"""From mask predictions to scores and logits of every pixel."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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
    probabilities = class_probabilities(prediction, classification)[..., :-1]
    mask_logits = prediction.mask_logits.float()
    masks = F.interpolate(mask_logits, size=prediction.padded_size, mode="bilinear", align_corners=False)
    height, width = prediction.image_size
    with torch.autocast(masks.device.type, enabled=False):  # small scores must not be rounded away
        return torch.einsum("bqk,bqhw->bkhw", probabilities, masks[..., :height, :width].sigmoid())


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
