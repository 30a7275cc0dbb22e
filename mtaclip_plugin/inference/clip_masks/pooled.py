"""The image tower sees the image once, and pools over each mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from mtaclip_plugin.encoders import Preprocessing
from mtaclip_plugin.encoders.clip import ClipEncoder
from mtaclip_plugin.inference.clip_masks.open_clip_towers import (
    OpenClipPooling,
    ResNetPooling,
    VisionTransformerPooling,
)
from mtaclip_plugin.inference.clip_masks.opinion import ClipMasks, ImageTower
from mtaclip_plugin.inference.clip_masks.pooling import MaskPooling
from mtaclip_plugin.inference.clip_masks.probabilities import embedding_probabilities
from mtaclip_plugin.inference.clip_masks.regions import cell_shares, resized
from mtaclip_plugin.inference.clip_masks.timm_towers import TimmPooling
from mtaclip_plugin.structures import MaskPrediction


class PooledMasks(ClipMasks):
    """As FC-CLIP does (Yu et al.: "Convolutions Die Hard", NeurIPS 2023), for towers of other kinds too.

    A mask is the part of the image where its sigmoid is at least 1/2. The image is resized to whole cells of the
    tower's map, or to the one size that the tower takes. Where the model's encoder is the very same tower, its
    weights untouched by training, and the image needs neither resizing nor padding, the encoder's pass serves for
    both. A tower that is trained as the encoder is looked at no more: this one stays as it was.

    Args:
        image_tower: see ``ClipMasks``.
        given: see ``ClipMasks``.

    Raises:
        ValueError: for a tower that has no map, or pools it in a way that masks have no part in.
    """

    tower: MaskPooling

    def __init__(self, image_tower: ImageTower, *, given: Preprocessing) -> None:
        super().__init__(image_tower, given=given)
        self.tower = _pooling_of(image_tower.visual).eval()
        self.shares_encoder = False

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
        """See ``ClipMasks``; all but empty masks are asked about."""
        size = self._size(*prediction.image_size)
        if unpooled is None:
            images = self.recoloured(images)
            if size != prediction.image_size:
                images = resized(images, size, self.interpolation)
            unpooled = self.tower.unpooled(images)
        grid = [side // self.tower.cell_size for side in size]
        shares = cell_shares(prediction.mask_logits >= 0, prediction.padded_size, prediction.image_size, grid)
        empty = ~shares.flatten(2).any(-1)
        embeddings = self.tower(unpooled, shares.masked_fill(empty[..., None, None], 1))  # finite ones at least
        return embedding_probabilities(embeddings, text, self.logit_scale).masked_fill(empty[..., None], 1)

    def encode(
        self, encoder: nn.Module, images: Tensor, image_size: Sequence[int]
    ) -> tuple[Sequence[Tensor], Tensor | None]:
        """See ``ClipMasks``."""
        height, width = images.shape[2:]
        if self.shares_encoder and (height, width) == tuple(image_size) == self._size(height, width):
            assert isinstance(encoder, ClipEncoder)
            return encoder.maps_and_unpooled(images)
        return super().encode(encoder, images, image_size)

    def compare(self, encoder: nn.Module) -> None:
        """See ``ClipMasks``."""
        self.shares_encoder = (
            self.keeps_colours
            and isinstance(encoder, ClipEncoder)
            and isinstance(self.tower, OpenClipPooling)
            and _same(encoder, self.tower.encoder)
        )

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which the tower sees images of a size."""
        cell = self.tower.cell_size
        return self.tower.image_size or (height + -height % cell, width + -width % cell)


def _pooling_of(visual: Any) -> MaskPooling:
    if isinstance(visual, ModifiedResNet):
        return ResNetPooling(visual)
    if isinstance(visual, VisionTransformer):
        return VisionTransformerPooling(visual)
    if isinstance(visual, TimmModel):
        return TimmPooling(visual)
    raise ValueError(f"clip_masks='pool' needs an image tower with a map, {type(visual).__name__} gives none")


def _same(encoder: nn.Module, other: nn.Module) -> bool:
    """Whether two encoders have the same tensors in the same place, to the bit."""
    first, second = encoder.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        (first[name].device, first[name].dtype) == (second[name].device, second[name].dtype)
        and first[name].device.type != "meta"
        and torch.equal(first[name], second[name])
        for name in first
    )
