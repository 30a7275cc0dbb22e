"""What names a mask: the class head, the text, or both, or the pixels in it; and CLIP's image tower if it was asked."""

from __future__ import annotations

import torch
from torch import Tensor

from mtaclip_plugin.inference.scoring import Classification, Scoring
from mtaclip_plugin.structures import MaskPrediction


def class_probabilities(prediction: MaskPrediction, scoring: Scoring | Classification = "learned") -> Tensor:
    """How likely each mask shows each class.

    Args:
        prediction: the model's prediction.
        scoring: what names the masks; see ``Scoring.classification``.

    Returns:
        (B, Q, K+1) float32 probabilities; the last column is "none".

    Raises:
        ValueError: if text is asked for and the prediction has none, or pixels that it has not.

    Example:
        >>> prediction = MaskPrediction(
        ...     class_logits=torch.zeros(1, 1, 3), mask_embed=torch.zeros(1, 1, 8), text_logits=None,
        ...     mask_features=torch.zeros(1, 8, 8, 8), image_size=(32, 32), padded_size=(32, 32),
        ... )
        >>> class_probabilities(prediction)
        tensor([[[0.3333, 0.3333, 0.3333]]])
    """
    scoring = as_scoring(scoring)
    probabilities = _decoder_probabilities(prediction, scoring)
    if (clip := prediction.clip_probabilities) is None:
        return probabilities
    untrained = columns(scoring.untrained, clip.shape[-1], device=clip.device)
    weights = clip.new_full(untrained.shape, scoring.trained_clip).masked_fill(untrained, scoring.untrained_clip)
    return join_probabilities(probabilities, clip, weights)


def _decoder_probabilities(prediction: MaskPrediction, scoring: Scoring) -> Tensor:
    learned = prediction.class_logits.float()
    if scoring.classification == "learned":
        return learned.softmax(-1)
    if prediction.text_logits is None:
        raise ValueError(f"classification='{scoring.classification}' needs text; build the model with a text_encoder")
    text = prediction.text_logits.float().amax(2)
    if scoring.classification == "text":
        return text.softmax(-1)
    if scoring.classification == "pixels":
        none = text.softmax(-1)[..., -1:]
        return torch.cat([(1 - none) * _mean_pixels(prediction), none], -1)
    share = 0.5 if scoring.classification == "ensemble" else scoring.trained_text
    log_text = text.log_softmax(-1)
    if scoring.classification == "ensemble" or not scoring.untrained:
        return torch.lerp(learned.log_softmax(-1), log_text, share).softmax(-1)
    untrained = columns(scoring.untrained, learned.shape[-1], device=learned.device)
    known = learned.masked_fill(untrained, -torch.inf).log_softmax(-1).masked_fill(untrained, 0)
    mixed = torch.where(untrained, scoring.untrained_text * log_text, torch.lerp(known, log_text, share))
    return mixed.softmax(-1)


def _mean_pixels(prediction: MaskPrediction) -> Tensor:
    """(B, Q, K) float32 means of the pixels' softmax, each pixel by the mask's share of it; padding has none."""
    if prediction.pixel_logits is None:
        raise ValueError("classification='pixels' needs pixels; build the model with pixel_scores above 0")
    height, width = (-(-side // 4) for side in prediction.image_size)  # maps are at stride 4
    with torch.autocast(prediction.pixel_logits.device.type, enabled=False):
        masks = prediction.mask_logits[..., :height, :width].float().sigmoid().flatten(2)
        pixels = prediction.pixel_logits[..., :height, :width].float().softmax(1).flatten(2)
        shares = masks / masks.sum(-1, keepdim=True).clamp(min=torch.finfo(masks.dtype).tiny)
        return shares @ pixels.mT


def as_scoring(scoring: Scoring | Classification) -> Scoring:
    """The scoring itself, or the one that does no more than to name masks in this way."""
    return scoring if isinstance(scoring, Scoring) else Scoring(classification=scoring)


def columns(indices: tuple[int, ...], count: int, *, device: torch.device) -> Tensor:
    """(count) bool, True at the indices."""
    chosen = torch.zeros(count, dtype=torch.bool, device=device)
    chosen[list(indices)] = True
    return chosen


def join_probabilities(decoder: Tensor, clip: Tensor, weights: Tensor) -> Tensor:
    """``decoder^(1-λ) · clip^λ`` of each class, renormalised; "none" keeps the probability that the decoder gives it.

    Args:
        decoder: (B, Q, K+1) probabilities, "none" last.
        clip: (B, Q, K) probabilities; where all are 1 the decoder's stay as they are.
        weights: (K) the λ of each class.

    Returns:
        (B, Q, K+1) probabilities.
    """
    tiny = torch.finfo(decoder.dtype).tiny
    classes, none = decoder[..., :-1], decoder[..., -1:]
    total = classes.sum(-1, keepdim=True).clamp(min=tiny)
    says = (clip < 1).any(-1, keepdim=True)
    log_decoder, log_clip = ((p.clamp(min=tiny)).log() for p in (classes / total, clip))
    joined = torch.lerp(log_decoder, log_clip, weights * says).softmax(-1)
    return torch.cat([joined * total, none], -1)
