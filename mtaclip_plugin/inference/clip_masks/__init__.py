"""What the image tower of an open_clip model says of masks, beside what the decoder says of them."""

from __future__ import annotations

from mtaclip_plugin.inference.clip_masks.build import ClipWay, build_clip_masks
from mtaclip_plugin.inference.clip_masks.opinion import ClipMasks
from mtaclip_plugin.inference.clip_masks.probabilities import join_probabilities

__all__ = ["ClipMasks", "ClipWay", "build_clip_masks", "join_probabilities"]
