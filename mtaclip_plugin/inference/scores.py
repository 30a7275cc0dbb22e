"""From mask predictions to scores and logits of every pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from mtaclip_plugin.inference.bands import full_maps, in_one_piece, map_bands
from mtaclip_plugin.inference.naming import as_scoring, class_probabilities, columns
from mtaclip_plugin.inference.scoring import Classification, Scoring
from mtaclip_plugin.structures import MaskPrediction

LEAST_FACTOR = 1e-3
"""Of a product of sources: one that says no less than this of a class has nothing to say about it."""


def semantic_scores(prediction: MaskPrediction, scoring: Scoring | Classification = "learned") -> Tensor:
    """Scores ``score_k(x) = sum_q p_q(k) · sigmoid(mask_q(x))`` over the K classes, and what ``scoring`` adds.

    Args:
        prediction: the model's prediction.
        scoring: see ``Scoring``; the name of a classification stands for the one that changes nothing else.

    Returns:
        (B, K, H, W) float32 scores of the image as it was given, padding cut off; 0 or more, not normalised.

    Raises:
        ValueError: if the prediction lacks what ``scoring`` asks for.
    """
    return _of_scores(lambda scores: scores, prediction, as_scoring(scoring))


def semantic_logits(prediction: MaskPrediction, scoring: Scoring | Classification = "learned") -> Tensor:
    """``scores_to_logits`` of ``semantic_scores``: what ``model(images)`` gives.

    Args:
        prediction: the model's prediction.
        scoring: see ``semantic_scores``.

    Returns:
        (B, K, H, W) float32 logits of the image as it was given.
    """
    return _of_scores(scores_to_logits, prediction, as_scoring(scoring))


@torch.no_grad()
def semantic_labels(prediction: MaskPrediction, scoring: Scoring | Classification = "learned") -> Tensor:
    """The class of the highest score at each pixel, found without scores, or masks, of the whole image.

    Args:
        prediction: the model's prediction.
        scoring: see ``semantic_scores``.

    Returns:
        (B, H, W) int64 class ids; for K = 1, whether the score is above 1/2, see ``scores_to_logits``.

    Example:
        >>> import torch, mtaclip_plugin as mta
        >>> model = mta.MTACLIP("resnet18", encoder_weights=None, classes=3, text_encoder=None).eval()
        >>> images = torch.rand(1, 3, 64, 96)
        >>> labels = mta.semantic_labels(model(images, return_masks=True))
        >>> torch.equal(labels, model(images).argmax(1))
        True
    """
    sources = _Sources.of(prediction, as_scoring(scoring))
    if in_one_piece():
        return sources.labels(full_maps(sources.maps, prediction))
    bands = map_bands(sources.maps, prediction, num_classes=sources.num_classes)
    return torch.cat([sources.labels(maps) for _, maps in bands], 1)


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


def _of_scores(function: Callable[[Tensor], Tensor], prediction: MaskPrediction, scoring: Scoring) -> Tensor:
    """``function``, which works on each pixel alone, of the scores: of no more than a band of them, if it may be."""
    sources = _Sources.of(prediction, scoring)
    if in_one_piece(sources.probabilities, sources.maps):
        return function(sources.scores(full_maps(sources.maps, prediction)))
    batch, num_classes = len(sources.maps), sources.num_classes
    result = sources.maps.new_empty(batch, num_classes, *prediction.image_size)
    for rows, maps in map_bands(sources.maps, prediction, num_classes=num_classes):
        result[:, :, rows] = function(sources.scores(maps))
    return result


@dataclass(frozen=True, eq=False)
class _Sources:
    """What scores are made of.

    Attributes:
        maps: (B, N, h, w) float32 logits that are resized together: of the masks of Q queries, of the text masks and of
            the pixels of K classes, each of them only where it has a weight.
        probabilities: (B, Q, K) of the masks.
        factors: (K) factors on the scores; ``None`` where all are 1.
        scoring: the weights.
    """

    maps: Tensor
    probabilities: Tensor
    factors: Tensor | None
    scoring: Scoring

    @classmethod
    def of(cls, prediction: MaskPrediction, scoring: Scoring) -> _Sources:
        probabilities = class_probabilities(prediction, scoring)[..., :-1]
        num_classes = probabilities.shape[-1]
        maps = [prediction.mask_logits] if scoring.query_scores else []
        if scoring.text_masks:
            if (text_mask_logits := prediction.text_mask_logits) is None:
                raise ValueError(_missing("text_masks", scoring.text_masks))
            maps.append(text_mask_logits)
        if scoring.pixel_scores:
            if prediction.pixel_logits is None:
                raise ValueError(_missing("pixel_scores", scoring.pixel_scores))
            maps.append(prediction.pixel_logits)
        factors = None
        if scoring.calibration and scoring.untrained:
            untrained = columns(scoring.untrained, num_classes, device=probabilities.device)
            factors = probabilities.new_full((num_classes,), math.exp(-scoring.calibration)).masked_fill(untrained, 1)
        return cls(
            maps=torch.cat([each.float() for each in maps], 1) if len(maps) > 1 else maps[0].float(),
            probabilities=probabilities,
            factors=factors,
            scoring=scoring,
        )

    @property
    def num_classes(self) -> int:
        return self.probabilities.shape[-1]

    def scores(self, maps: Tensor) -> Tensor:
        """(B, K, rows, W) scores of resized maps (B, N, rows, W)."""
        queries, others = self._split(maps)
        with torch.autocast(maps.device.type, enabled=False):  # small scores must not be rounded away
            scores = torch.einsum("bqk,bqhw->bkhw", self.probabilities, queries) if queries is not None else None
        total = self._joined(scores, others)
        return total if self.factors is None else total * self.factors[:, None, None]

    def labels(self, maps: Tensor) -> Tensor:
        """(B, rows, W) class ids of resized maps (B, N, rows, W)."""
        queries, others = self._split(maps)
        scores = None
        with torch.autocast(maps.device.type, enabled=False):
            if queries is not None:  # a pixel's classes side by side: a fast argmax
                scores = queries.flatten(2).transpose(1, 2) @ self.probabilities
        total = self._joined(scores, [other.flatten(2).transpose(1, 2) for other in others])
        if self.factors is not None:
            total = total * self.factors
        labels = total.argmax(-1) if total.shape[-1] > 1 else (scores_to_logits(total.mT) > 0).long().squeeze(1)
        return labels.unflatten(1, maps.shape[2:])

    def _split(self, maps: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """The masks (B, Q, rows, W) of the queries, and what else has a weight (B, K, rows, W)."""
        queries, others, first = None, [], 0
        if self.scoring.query_scores:
            first = self.probabilities.shape[1]
            queries = maps[:, :first].sigmoid()
        if self.scoring.text_masks:
            others.append(maps[:, first : first + self.num_classes].sigmoid())
        if self.scoring.pixel_scores:
            others.append(maps[:, -self.num_classes :].softmax(1))
        return queries, others

    def _joined(self, queries: Tensor | None, others: list[Tensor]) -> Tensor:
        """All sources as one, in the order that `_split` gives the others in."""
        sources = others
        if queries is not None:
            sources = [queries.clamp(max=1) if others else queries, *others]
        scoring = self.scoring
        weights = [each for each in (scoring.query_scores, scoring.text_masks, scoring.pixel_scores) if each]
        if scoring.score_join == "product" and len(sources) > 1:
            factors = [source.clamp(min=LEAST_FACTOR) for source in sources]
            powers = [each if weight == 1 else each**weight for each, weight in zip(factors, weights, strict=True)]
            return reduce(torch.mul, powers)
        parts = [source if weight == 1 else weight * source for source, weight in zip(sources, weights, strict=True)]
        return reduce(torch.add, parts)


def _missing(option: str, weight: float) -> str:
    return f"the prediction has nothing that {option}={weight} could weigh; build the model with {option} above 0"
