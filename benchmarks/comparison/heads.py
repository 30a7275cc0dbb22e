"""The heads that are compared, as changes of one configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from trainers.foundation.errors import UserError
from trainers.options.config import Config

Head = Literal["mtaclip", "mask2former", "denseclip", "fpn", "unet", "upernet", "deeplabv3plus", "segformer"]
HEADS: tuple[Head, ...] = get_args(Head)


def with_head(config: Config, head: Head) -> Config:
    """The configuration with another head; all that is not the model's stays as it is.

    "mask2former" is "mtaclip" without text, "denseclip" is of this package, the rest is smp's.

    Raises:
        UserError: There is no such head.
    """
    if head not in HEADS:
        raise UserError(f"There is no head {head!r}; choose among {', '.join(HEADS)}.")
    if head == "mask2former":
        return without_text(replace(config, model=replace(config.model, arch="mtaclip")))
    return replace(config, model=replace(config.model, arch=head))


def without_text(config: Config) -> Config:
    """The configuration of an "mtaclip" without text, nor what in losses and scores needs it."""
    model = replace(
        config.model,
        text_encoder=None,
        center_text=False,
        classification="learned",
        score_join="sum",
        query_scores=1.0,
        text_masks=0.0,
        pixel_scores=0.0,
    )
    return replace(config, model=model, loss=replace(config.loss, text_mask_weight=0.0, pixel_weight=0.0))


def with_encoder(config: Config, encoder: str) -> Config:
    """The configuration with another encoder, NAME or NAME=WEIGHTS; without weights it is untrained."""
    name, _, weights = encoder.partition("=")
    return replace(config, model=replace(config.model, encoder_name=name, encoder_weights=weights or None))
