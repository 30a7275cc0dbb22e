"""What a model makes scores of, and the text that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from mtaclip_plugin.decoder import MTACLIPDecoder
from mtaclip_plugin.inference import Classification, Scoring
from mtaclip_plugin.text.centering import TextCentering
from mtaclip_plugin.text.evaluation import TextHolder


class ScoringModel(TextHolder):
    """A model whose scores can be made in other ways than those that it was built with, as far as it has the parts.

    Attributes:
        text_centering: what centres text before anything reads it; ``None`` for nothing.
    """

    config: dict[str, Any]
    decoder: MTACLIPDecoder
    class_names: list[str] | None
    untrained_names: tuple[str, ...]
    text_centering: TextCentering | None

    @property
    def scoring(self) -> Scoring:
        """How scores are made, as chosen by the user; another one that is assigned is saved with the model.

        Raises:
            ValueError: On assignment, if the model lacks what it asks for.
        """
        return self._scoring

    @scoring.setter
    def scoring(self, scoring: Scoring) -> None:
        check_text_options(None if self.prompts is None else "text", scoring, classes=self.config["classes"])
        has_text_masks, has_pixels = self.decoder.mask_text_decoder.text_masks, self.decoder.pixel_head is not None
        if scoring.text_masks and not has_text_masks:
            raise ValueError("the model was built without text masks; build it with text_masks above 0")
        if scoring.reads_pixels and not has_pixels:
            raise ValueError("the model was built without pixel scores; build it with pixel_scores above 0")
        self._scoring = replace(scoring, untrained=())
        self._score_untrained()
        self.config.update({name: value for name, value in asdict(scoring).items() if name != "untrained"})
        self.config.update(predict_text_masks=has_text_masks, predict_pixels=has_pixels)

    @property
    def classification(self) -> Classification:
        """What names masks; see ``Scoring``."""
        return self._scoring.classification

    @classification.setter
    def classification(self, classification: Classification) -> None:
        self.scoring = replace(self._scoring, classification=classification)

    def current_scoring(self) -> Scoring:
        """The way chosen; in evaluation, names that the class head was never trained on are named by text."""
        return self._scoring if self.training else self._evaluation_scoring

    def _score_untrained(self) -> None:
        """Brings the scoring of evaluation up to date with the names that were never trained."""
        self._evaluation_scoring = self._scoring
        if self.untrained_names:
            untrained = tuple(k for k, name in enumerate(self.class_names or ()) if name in self.untrained_names)
            # Where the head has rows that were never trained, its softmax means nothing for the others either.
            chosen = self._scoring.classification
            way: Classification = chosen if chosen in ("per_name", "pixels") else "text"
            self._evaluation_scoring = replace(self._scoring, classification=way, untrained=untrained)

    def _centering(self) -> TextCentering:
        """What centres text, on the mean of the present one."""
        if self.prompts is None:
            raise ValueError("center_text needs text, but text_encoder is None")
        centering = TextCentering(self.prompts.num_prompts, self.prompts.text_channels)
        with torch.no_grad():
            centering.keep_mean(self.prompts())
        return centering

    def _text_to_read(self, text: Tensor | None) -> Tensor | None:
        """(P, K+1, T) text embeddings as the decoder reads them."""
        return text if text is None or self.text_centering is None else self.text_centering(text)


def check_text_options(
    text: str | None,
    scoring: Scoring,
    *,
    classes: int,
    predict_text_masks: bool = False,
    predict_pixels: bool = False,
    center_text: bool = False,
    untrained_names: Sequence[str] | None = None,
) -> None:
    """Refuses what no model without text, or of a single class, can do.

    Args:
        text: where the text comes from; ``None`` without text.
        scoring: how scores are to be made.
        classes: K.
        predict_text_masks: whether the text's own masks are wanted, whatever is to be scored.
        predict_pixels: the same of pixels that are compared with text.
        center_text: whether text is to be centred.
        untrained_names: names that only text could tell.

    Raises:
        ValueError: naming the option.
    """
    wanted = {
        f"classification='{scoring.classification}'": scoring.classification != "learned",
        f"text_masks={scoring.text_masks}": scoring.text_masks,
        f"pixel_scores={scoring.pixel_scores}": scoring.pixel_scores,
        "predict_text_masks=True": predict_text_masks,
        "predict_pixels=True": predict_pixels,
        "center_text=True": center_text,
        f"untrained_names={list(untrained_names or ())}": untrained_names,
    }
    if text is None and (needing := [option for option, value in wanted.items() if value]):
        raise ValueError(f"{needing[0]} needs text, but text_encoder is None")
    if (predict_pixels or scoring.reads_pixels) and classes == 1:
        raise ValueError("pixels are compared with classes, of which there is one; leave pixel_scores at 0")
    if scoring.score_join == "product" and classes == 1:
        raise ValueError("score_join='product' compares classes with each other, of which there is one; take 'sum'")
    if center_text and classes == 1:
        raise ValueError("center_text takes off what class names have in common, of which there is one; leave it out")
