"""How scores are made of a prediction: which sources they have, and what names a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mtaclip_plugin.arguments import check_choice, check_shares, check_weights

Classification = Literal["learned", "text", "ensemble", "per_name", "pixels"]
ScoreJoin = Literal["sum", "product"]


@dataclass(frozen=True)
class Scoring:
    """What the score of a class at a pixel is made of.

    ``score_k(x) = a · sum_q p_q(k) · sigmoid(mask_q(x)) + b · sigmoid(text_mask_k(x)) + c · softmax_k(pixels(x))``.
    The paper's way is the default: the masks of the queries alone, named by the learned head. Where another source is
    added, the queries' sum is bounded by 1, as the others are.

    The sources can be multiplied in place of that, each to the power of its weight, ``queries^a · text masks^b ·
    pixels^c``: classifiers that are each right about something else, so that the one that is sure decides. Where they
    have learnt at different speeds a sum is held up by the slowest, a product less.

    Attributes:
        classification: what names the masks of the queries. ``"learned"``: the softmax of the class head; ``"text"``:
            the softmax over the classes of each class's most similar prompt; ``"ensemble"``: their geometric mean,
            renormalised; ``"per_name"``: ``learned^(1-λ)·text^λ``, renormalised, with a λ for names that the class
            head was trained on and another for those that it was not, whose rows of it are never read; ``"pixels"``:
            the mean of the pixels' own softmax within the mask, ``(1 - text_q(none)) · sum_x sigmoid(mask_q(x)) ·
            softmax_k(pixels(x)) / sum_x sigmoid(mask_q(x))``. A query tells where a thing is before it tells what it
            is, and pixels the other way round.
        score_join: whether sources are added, ``"sum"``, or multiplied, ``"product"``. No factor is below
            ``LEAST_FACTOR``: a source that has not seen a class at all leaves it to the others.
        query_scores: weight a of the queries' masks.
        text_masks: weight b of the text queries' masks.
        pixel_scores: weight c of the pixels' own softmax.
        trained_text: λ of trained names, for ``"per_name"``.
        untrained_text: λ of untrained names, for ``"per_name"``: of those, ``text^λ``.
        calibration: taken off the logits of trained names where there are untrained ones among them, which training
            pushes down.
        trained_clip: λ of trained names in ``p^(1-λ)·clip^λ``, renormalised over the classes, where CLIP's image tower
            has been asked what a mask shows; "none" keeps its probability. FC-CLIP has 0.4, OVSeg 0.7.
        untrained_clip: λ of untrained names in the same; FC-CLIP has 0.8, OVSeg 0.7.
        untrained: columns of the names that the class head was never trained on.

    Raises:
        ValueError: If a weight is negative or all are 0, or a λ lies outside [0, 1].
    """

    classification: Classification = "learned"
    score_join: ScoreJoin = "sum"
    query_scores: float = 1.0
    text_masks: float = 0.0
    pixel_scores: float = 0.0
    trained_text: float = 0.0
    untrained_text: float = 1.0
    calibration: float = 0.0
    trained_clip: float = 0.4
    untrained_clip: float = 0.8
    untrained: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuses values that no score can be made with."""
        check_choice("classification", self.classification, Classification)
        check_choice("score_join", self.score_join, ScoreJoin)
        check_weights(query_scores=self.query_scores, text_masks=self.text_masks, pixel_scores=self.pixel_scores)
        check_weights(calibration=self.calibration)
        check_shares(trained_text=self.trained_text, untrained_text=self.untrained_text)
        check_shares(trained_clip=self.trained_clip, untrained_clip=self.untrained_clip)
        if not (self.query_scores or self.text_masks or self.pixel_scores):
            raise ValueError("query_scores, text_masks and pixel_scores are all 0: nothing gives a score")

    @property
    def reads_text(self) -> bool:
        """Whether scores depend on text, so that a model without text can not give them."""
        return self.classification != "learned" or bool(self.text_masks or self.pixel_scores)

    @property
    def reads_pixels(self) -> bool:
        """Whether scores depend on what pixels are compared with text for."""
        return self.classification == "pixels" or self.pixel_scores > 0
