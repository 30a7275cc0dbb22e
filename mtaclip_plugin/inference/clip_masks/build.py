"""Which image tower a model asks about masks, by the model's options."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from segmentation_models_pytorch.base import SegmentationModel

from mtaclip_plugin.arguments import check_choice
from mtaclip_plugin.encoders import preprocessing
from mtaclip_plugin.encoders.clip import ClipEncoder
from mtaclip_plugin.inference.clip_masks.cropped import CroppedMasks
from mtaclip_plugin.inference.clip_masks.opinion import ClipMasks, ClipWay, ImageTower
from mtaclip_plugin.inference.clip_masks.pooled import PooledMasks
from mtaclip_plugin.text import EmbeddingBank, TextSource
from mtaclip_plugin.text.clip import create_clip


def build_clip_masks(model: SegmentationModel, text: TextSource) -> ClipMasks | None:
    """Builds what asks the image tower, if the model's configuration says so.

    What the images are normalised with is recorded there, so that a model that is loaded takes the same.

    Args:
        model: a model that has its encoder, and whose configuration has the options of ``MTACLIP``.
        text: where its text comes from.

    Raises:
        ValueError: if there is no such tower, it is not the one of the text, or there is nothing to ask it.
        ConnectionError: if its weights, or what the encoder's images are normalised with, could not be fetched.
    """
    config: dict[str, Any] = model.config
    way: ClipWay | None = config["clip_masks"]
    if way is None:
        return None
    check_choice("clip_masks", way, ClipWay)
    if text.prompts is None:
        raise ValueError("clip_masks compares masks with text, but text_encoder is None")
    if config["in_channels"] != 3:
        raise ValueError(
            f"clip_masks shows the images to CLIP, which takes 3 channels; the model takes {config['in_channels']}"
        )
    if config["classes"] == 1:
        raise ValueError("clip_masks compares classes with each other, of which there is one; leave it out")
    tower = _tower(config["clip_masks_tower"], config["clip_masks_pretrained"], text, model)
    given = preprocessing(model)
    config.update(image_mean=list(given.mean), image_std=list(given.std))
    clip_masks = (PooledMasks if way == "pool" else CroppedMasks)(tower, given=given)
    if clip_masks.text_channels != text.prompts.text_channels:
        raise ValueError(
            f"the image tower for clip_masks gives embeddings of T={clip_masks.text_channels} numbers, the text has "
            f"T={text.prompts.text_channels}; name the open_clip model that the text comes from in clip_masks_tower"
        )
    return clip_masks


def _tower(name: str | None, pretrained: str | None, text: TextSource, model: SegmentationModel) -> ImageTower:
    if isinstance(text.prompts, EmbeddingBank):
        if name is None:
            raise ValueError(
                "clip_masks needs the image tower of the open_clip model that the text embeddings come from: name the "
                "model in clip_masks_tower, such as 'ViT-B-16', and its weights in clip_masks_pretrained"
            )
        clip = create_clip(name, pretrained)
        return ImageTower(clip.visual, clip.logit_scale)
    assert text.prompts is not None
    tower = text.prompts.tower
    if name not in (None, tower.name):
        raise ValueError(
            f"clip_masks_tower='{name}' is not the open_clip model that the text comes from; leave it out, as "
            f"text_encoder='{tower.name}' has an image tower"
        )
    # What the encoder is made of may be trained.
    visual = deepcopy(text.visual) if isinstance(model.encoder, ClipEncoder) else text.visual
    return ImageTower(visual, tower.model.logit_scale)
