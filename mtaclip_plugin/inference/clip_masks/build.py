"""Which image tower is asked about masks, and in which way."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from mtaclip_plugin.encoders import Preprocessing
from mtaclip_plugin.inference.clip_masks.cropped import CroppedMasks
from mtaclip_plugin.inference.clip_masks.opinion import ClipMasks
from mtaclip_plugin.inference.clip_masks.pooled import PooledMasks

ClipWay = Literal["pool", "crop"]


def build_clip_masks(
    way: ClipWay, visual: nn.Module, logit_scale: Tensor, *, given: Preprocessing, text_channels: int
) -> ClipMasks:
    """Builds what asks a tower about masks.

    Args:
        way: ``"pool"`` for ``PooledMasks``, ``"crop"`` for ``CroppedMasks``.
        visual: the image tower of an open_clip model, which from then on may be used for nothing else.
        logit_scale: the log of the scale of the model's logits.
        given: what the images that it is going to be given are normalised with.
        text_channels: size T of the text embeddings that it is going to be given.

    Raises:
        ValueError: if the tower's embeddings have another size, or the way needs what the tower does not have.
    """
    clip_masks = (PooledMasks if way == "pool" else CroppedMasks)(visual, logit_scale, given=given)
    if (channels := clip_masks.text_channels) != text_channels:
        raise ValueError(
            f"the image tower for clip_masks gives embeddings of T={channels} numbers, the text has T={text_channels}; "
            "name the open_clip model that the text comes from in clip_masks_tower"
        )
    return clip_masks
