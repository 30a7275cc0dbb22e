"""What the image tower of an open_clip model says of masks, beside what the decoder says of them."""

from __future__ import annotations

from mtaclip_plugin.inference.clip_masks.build import build_clip_masks
from mtaclip_plugin.inference.clip_masks.cropped import CroppedMasks
from mtaclip_plugin.inference.clip_masks.opinion import ClipMasks, ClipWay, ImageTower
from mtaclip_plugin.inference.clip_masks.pooled import PooledMasks

__all__ = ["ClipMasks", "ClipWay", "CroppedMasks", "ImageTower", "PooledMasks", "build_clip_masks"]
