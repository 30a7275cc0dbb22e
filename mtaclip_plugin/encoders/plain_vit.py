"""Vision transformers without stages, as encoders with one map at stride 16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch.nn.functional as F
from timm.layers.format import Format
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

STRIDE = 16
"""Of the one map; the simple feature pyramid makes the others of it."""

TIMM_MODULES = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")
"""Modules of timm whose models take images of any size, with position embeddings resampled to them."""


def map_at_stride_16(tokens_of: Callable[[Tensor], Tensor], patch_size: int, image: Tensor) -> Tensor:
    """The tokens of a plain vision transformer as a map at stride 16, whatever its patch.

    Args:
        tokens_of: makes a map of tokens, one for each patch, of images of whole patches.
        patch_size: side of a patch in pixels.
        image: (B, C, H, W), sides multiples of 16.

    Returns:
        (B, width, H/16, W/16).
    """
    height, width = image.shape[-2:]
    tokens = tokens_of(F.pad(image, (0, -width % patch_size, 0, -height % patch_size)))
    if patch_size != STRIDE:
        # By a factor, not to a size: so that patches of padding do not shift the others.
        tokens = F.interpolate(tokens, scale_factor=patch_size / STRIDE, mode="bilinear")
    return tokens


class PlainViT(nn.Module):
    """A plain vision transformer as an encoder.

    Args:
        body: makes a map of its last tokens, one for each patch, of images of whole patches.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, body: nn.Module, patch_size: int) -> None:
        super().__init__()
        self.body = body
        self.patch_size = patch_size

    def forward(self, image: Tensor) -> list[Tensor]:
        """Images (B, C, H, W), sides multiples of 16, to themselves and the map (B, width, H/16, W/16)."""
        return [image, map_at_stride_16(self.body, self.patch_size, image)]


class _TimmTokens(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        model.prune_intermediate_layers(1)

    def forward(self, image: Tensor) -> Tensor:
        model: Any = self.model
        return model.forward_intermediates(image, indices=1, norm=True, intermediates_only=True)[0]


def forget_size(model: Any) -> None:
    """Lets a vision transformer of timm that takes any size be exported for any size."""
    # Else it asserts that the size is right in a sentence with the size, which a traced graph takes for a constant.
    model.patch_embed.img_size = None


def let_size_vary(model: Any) -> bool:
    """Lets a model of timm take images of any size, in place; what it gives at its own size stays.

    Returns:
        Whether it does now; a vision transformer that can only be built so does not.
    """
    if not model.dynamic_img_size:
        plain = isinstance(model, VisionTransformer) and type(model.patch_embed) is PatchEmbed
        if not plain:
            return False
        # All that the option does where timm builds the model.
        model.dynamic_img_size = True
        model.patch_embed.strict_img_size = False
        model.patch_embed.flatten = False
        model.patch_embed.output_fmt = Format.NHWC
    forget_size(model)
    return True


def build_timm_vit(name: str, *, in_channels: int, pretrained: bool, **options: Any) -> PlainViT:
    """Builds a model of ``TIMM_MODULES`` without its head; the map is that of the last block after the last norm.

    Args:
        name: timm model name.
        in_channels: image channels.
        pretrained: whether to fetch its weights.
        **options: passed to timm.
    """
    model: Any = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, dynamic_img_size=True, **options)
    forget_size(model)
    return PlainViT(_TimmTokens(model), model.feature_info[-1]["reduction"])
