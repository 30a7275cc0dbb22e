"""Swin as segmentation has it: windows that do not depend on the image size, and maps that want a norm."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock, SwinTransformerStage
from torch import Tensor, nn

SWIN_MODULES = ("swin_transformer",)
"""Modules of timm with the first Swin; its second version norms its residual branches itself."""

NORM_EPS = 1e-5
"""Of the norm of each map, as in Mask2Former."""


class SwinBlock(SwinTransformerBlock):
    """A block that pads its map to whole windows before it shifts them, as Swin's authors and transformers do.

    Timm shifts first, and then its mask takes the padding for the rows and columns that came round from the other
    side: where a map is no multiple of the window, cells attend across the border.
    """

    def _attn(self, x: Tensor) -> Tensor:
        """(B, h, w, C) to (B, h, w, C)."""
        height, width = x.shape[1:3]
        bottom, right = -height % self.window_size[0], -width % self.window_size[1]
        return super()._attn(F.pad(x, (0, 0, 0, right, 0, bottom)))[:, :height, :width]


def build_swin(name: str, *, in_channels: int, depth: int, pretrained: bool, **options: Any) -> nn.Module:
    """Builds a Swin of timm whose maps equal those of transformers' ``SwinBackbone`` before its norms.

    Timm alone fixes windows and shifts at construction: blocks whose map is then no larger than the window (the last
    stage, at the size in the name) never shift, whatever the size of an image. Here all of them have the whole window,
    and every second one shifts. ``always_partition`` among the options, with either value, gives timm's blocks as they
    are; they differ in those blocks, and in all that shift where a map is no multiple of the window.

    Args:
        name: timm model of ``SWIN_MODULES`` as ``tu-NAME``.
        in_channels: image channels.
        depth: number of stages, 3 to 5.
        pretrained: whether to fetch its weights.
        **options: passed to timm.
    """
    encoder: nn.Module = smp.encoders.get_encoder(
        name,
        in_channels=in_channels,
        depth=depth,
        weights=pretrained or None,
        **{"always_partition": True} | options,
    )
    if "always_partition" not in options:
        for block in _blocks(encoder):
            block.__class__ = SwinBlock
    return encoder


def swin_stages(encoder: nn.Module) -> list[SwinTransformerStage]:
    """The stages of an encoder that is timm's first Swin; none of another."""
    return [module for module in encoder.modules() if isinstance(module, SwinTransformerStage)]


def swin_options(encoder: nn.Module) -> dict[str, bool]:
    """The option with which ``build_swin`` builds an encoder that has timm's blocks; none for another."""
    timms = [block for block in _blocks(encoder) if not isinstance(block, SwinBlock)]
    return {"always_partition": timms[0].always_partition} if timms else {}


def _blocks(encoder: nn.Module) -> list[SwinTransformerBlock]:
    return [module for module in encoder.modules() if isinstance(module, SwinTransformerBlock)]
