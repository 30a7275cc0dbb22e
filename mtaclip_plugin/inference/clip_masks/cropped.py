"""The image tower sees the box of each mask, cut out of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from mtaclip_plugin.inference.bands import full_maps
from mtaclip_plugin.inference.clip_masks.opinion import ClipMasks, embedding_of
from mtaclip_plugin.inference.clip_masks.probabilities import embedding_probabilities
from mtaclip_plugin.inference.clip_masks.regions import crop_regions
from mtaclip_plugin.structures import MaskPrediction

LEAST_PROBABILITY = 1e-3
"""Masks that carry no more than this of any class are not worth a pass of the tower."""

CROPS_AT_ONCE = 16
"""Masks of one image that go through the tower together."""


class CroppedMasks(ClipMasks):
    """As OVSeg does (Liang et al., CVPR 2023), by any open_clip model as it is.

    A mask is the part of the image where its sigmoid is at least 1/2. Its box is cut out, filled with the tower's
    mean image where the mask is not, and resized to the size of the tower's images. It depends on the masks how
    many crops there are, so this can not be exported.
    """

    @torch.no_grad()
    def ask(
        self,
        images: Tensor,
        prediction: MaskPrediction,
        text: Tensor,
        decoder: Tensor,
        *,
        unpooled: Tensor | None = None,
    ) -> Tensor:
        """See ``ClipMasks``; asked about are masks that carry a class and are not empty.

        Raises:
            ValueError: while the model is exported.
        """
        if torch.compiler.is_exporting():
            raise ValueError(
                "clip_masks='crop' can not be exported, as it depends on the masks how many crops there are; build "
                "the model with clip_masks='pool', or without"
            )
        images, mask_logits = self.recoloured(images), prediction.mask_logits.float()
        result = torch.ones_like(decoder[..., :-1])
        carries = decoder[..., :-1].amax(-1) > LEAST_PROBABILITY
        for image, masks in enumerate(carries):
            for chunk in masks.nonzero().flatten().split(CROPS_AT_ONCE) if masks.any() else ():
                regions = full_maps(mask_logits[image, chunk][None], prediction)[0] >= 0
                shown = regions.flatten(1).any(1)
                if shown.any():
                    crops = crop_regions(images[image], regions[shown], self.image_size, self.interpolation)
                    probabilities = embedding_probabilities(embedding_of(self.tower(crops)), text, self.logit_scale)
                    result[image, chunk[shown]] = probabilities
        return result
