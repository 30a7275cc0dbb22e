"""Ways of telling classes that were never labelled, as changes of one configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from benchmarks.comparison.heads import without_text
from trainers.options.config import Config

NO_TEXT: Final = "no text"
PIXEL_WEIGHT: Final = 10.0
"""Weight of the pixels' losses where the configuration has none."""


def paper(config: Config) -> Config:
    """Masks that are named by text, and no more: nothing of the losses and scores that are not the paper's."""
    model = replace(config.model, classification="text", query_scores=1.0, text_masks=0.0, pixel_scores=0.0)
    loss = replace(config.loss, text_mask_weight=0.0, pixel_weight=0.0)
    return replace(config, model=model, loss=loss)


def pixels(config: Config) -> Config:
    """Pixels that are aligned with the text, and no masks."""
    model = replace(config.model, query_scores=0.0, text_masks=0.0, pixel_scores=1.0)
    loss = replace(
        config.loss,
        class_weight=0.0,
        mask_weight=0.0,
        dice_weight=0.0,
        contrastive_weight=0.0,
        absent_mask_weight=0.0,
        text_mask_weight=0.0,
        pixel_weight=config.loss.pixel_weight or PIXEL_WEIGHT,
    )
    return replace(config, model=model, loss=loss)


def denseclip(config: Config) -> Config:
    """The peer that aligns pixels, see `benchmarks.denseclip`; unseen classes are left to its score map."""
    return replace(config, model=replace(config.model, arch="denseclip"))


def no_text(config: Config) -> Config:
    """The same decoder without text, which knows seen classes alone; pixels of the others are void."""
    data = replace(config.data, unseen=(), ignore_classes=(*config.data.ignore_classes, *config.data.unseen_names))
    return without_text(replace(config, data=data))


WAYS: Final[Mapping[str, Callable[[Config], Config]]] = {
    "mtaclip": lambda config: config,
    "masks": paper,
    "pixels": pixels,
    "denseclip": denseclip,
    NO_TEXT: no_text,
}
