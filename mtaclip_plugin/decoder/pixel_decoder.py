"""From an encoder's maps to mask features at stride 4 and memories at strides 32, 16 and 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.fpn.decoder import SegmentationBlock
from torch import Tensor, nn

from mtaclip_plugin.decoder.deformable.attention import DeformableAttention
from mtaclip_plugin.decoder.layers import feedforward
from mtaclip_plugin.decoder.positions import LevelShapes, cell_centers, sine_positions
from mtaclip_plugin.decoder.recompute import recomputed
from mtaclip_plugin.encoders import GROUPS

PixelDecoderName = Literal["deformable", "fpn", "semantic_fpn", "context_fpn"]


@dataclass(frozen=True)
class PixelFeatures:
    """What a pixel decoder gives.

    Attributes:
        mask_features: (B, D, h, w) at stride 4; its dot product with a mask embedding is a mask's logit.
        memories: three maps (B, D, h_i, w_i) at strides 32, 16 and 8 that the decoder attends to.
    """

    mask_features: Tensor
    memories: tuple[Tensor, Tensor, Tensor]


def _projection(in_channels: int, channels: int, *, bias: bool) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=bias), nn.GroupNorm(GROUPS, channels))


def _smoothing(channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, channels), nn.ReLU())


def _initialize_convolutions(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over all levels, then a feed-forward network, each with a norm after it."""

    def __init__(self, channels: int, num_heads: int, num_points: int, feedforward_channels: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, num_heads, num_points=num_points)
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward = feedforward(channels, feedforward_channels)
        self.feedforward_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, positions: Tensor, reference_points: Tensor, level_shapes: LevelShapes) -> Tensor:
        """(B, S, D) tokens of all levels to (B, S, D)."""
        attended = self.attention(tokens, positions, reference_points, level_shapes)
        tokens = self.attention_norm(tokens + attended)
        return self.feedforward_norm(tokens + recomputed(self.feedforward, tokens))


class DeformablePixelDecoder(nn.Module):
    """Multi-scale deformable attention over strides 32, 16 and 8, then one FPN step to stride 4 (section 3.1).

    Args:
        in_channels: channels of the encoder's maps at strides 4, 8, 16 and 32.
        channels: width D of everything it gives, a multiple of 64.
        num_layers: deformable attention layers.
        num_heads: attention heads.
        num_points: sampled positions for each head and level.
        feedforward_channels: hidden width of the feed-forward networks.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        feedforward_channels: int = 1024,
    ) -> None:
        super().__init__()
        stride_4, *coarser = in_channels
        self.input_projections = nn.ModuleList(_projection(c, channels, bias=True) for c in reversed(coarser))
        self.level_embedding = nn.Embedding(len(coarser), channels)
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(channels, num_heads, num_points, feedforward_channels) for _ in range(num_layers)
        )
        self.lateral = _projection(stride_4, channels, bias=False)
        self.output = _smoothing(channels)
        self.mask_projection = nn.Conv2d(channels, channels, 1)
        for part in (self.input_projections, self.lateral, self.output, self.mask_projection):
            _initialize_convolutions(part)

    def forward(self, features: Sequence[Tensor]) -> PixelFeatures:
        """Maps (B, C_i, h_i, w_i) at strides 4, 8, 16 and 32 to ``PixelFeatures``."""
        stride_4, *coarser = features
        maps = [project(m) for project, m in zip(self.input_projections, reversed(coarser), strict=True)]
        level_shapes = [(m.shape[-2], m.shape[-1]) for m in maps]
        channels = maps[0].shape[1]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        areas = [height * width for height, width in level_shapes]
        of_levels = sine_positions(level_shapes, channels, like=tokens).split(areas)
        positions = torch.cat(
            [cells + level for cells, level in zip(of_levels, self.level_embedding.weight, strict=True)]
        )
        reference_points = torch.cat([cell_centers(h, w, like=tokens) for h, w in level_shapes])
        for layer in self.layers:
            tokens = layer(tokens, positions, reference_points, level_shapes)

        parts = tokens.transpose(1, 2).split(areas, -1)
        stride_32, stride_16, stride_8 = (
            part.unflatten(-1, shape) for part, shape in zip(parts, level_shapes, strict=True)
        )
        # The maps at stride 4 are the largest ones: those between two convolutions are not kept.
        lateral = recomputed(self.lateral, stride_4)
        upsampled = F.interpolate(stride_8, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        convolution, *norm = self.output
        mask_features = recomputed(nn.Sequential(*norm, self.mask_projection), convolution(lateral + upsampled))
        return PixelFeatures(mask_features, (stride_32, stride_16, stride_8))


class FPNPixelDecoder(nn.Module):
    """A feature pyramid network (Lin et al.): a third of the arithmetic, no attention between pixels.

    Args:
        in_channels: channels of the encoder's maps at strides 4, 8, 16 and 32.
        channels: width D of everything it gives, a multiple of 64.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_projection(c, channels, bias=False) for c in reversed(in_channels))
        self.outputs = nn.ModuleList(_smoothing(channels) for _ in in_channels)
        self.mask_projection = nn.Conv2d(channels, channels, 1)
        _initialize_convolutions(self)

    def forward(self, features: Sequence[Tensor]) -> PixelFeatures:
        """Maps (B, C_i, h_i, w_i) at strides 4, 8, 16 and 32 to ``PixelFeatures``."""
        maps: list[Tensor] = []
        for lateral, output, feature in zip(self.laterals, self.outputs, reversed(features), strict=True):
            projected = lateral(feature)
            if maps:
                projected = projected + F.interpolate(maps[-1], size=projected.shape[-2:], mode="nearest")
            maps.append(output(projected))
        stride_32, stride_16, stride_8, stride_4 = maps
        return PixelFeatures(self.mask_projection(stride_4), (stride_32, stride_16, stride_8))


class ImageContext(nn.Module):
    """Adds to every pixel of a map what the image as a whole shows, as ParseNet does (Liu et al., 2015).

    Finer grids than one cell, as PSPNet has them, were as good, and cannot be exported to ONNX for images of any size.

    Args:
        channels: C of the map.
        hidden_channels: what the image comes down to.
    """

    def __init__(self, channels: int, hidden_channels: int = 128) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(channels, hidden_channels, 1)
        self.expansion = nn.Conv2d(hidden_channels, channels, 1)
        for parameter in self.expansion.parameters():
            nn.init.zeros_(parameter)  # a training starts as without it

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h, w)."""
        image = features.mean((2, 3), keepdim=True)
        return features + self.expansion(self.reduction(image).relu())


class SemanticFPNPixelDecoder(nn.Module):
    """The pyramid and the semantic branch of Panoptic FPN (Kirillov et al.), as smp's ``FPN`` has them.

    Every level has convolutions of its own on its way to stride 4, where they are summed to the mask features: context
    reaches them sooner than through one path from level to level, which counts where a training is short. Not the
    paper's way.

    Args:
        in_channels: channels of the encoder's maps at strides 4, 8, 16 and 32.
        channels: width D of everything it gives, a multiple of 32.
        pyramid_channels: width of the pyramid, as in smp.
        context: whether the deepest map has ``ImageContext``.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int = 256, *, pyramid_channels: int = 256, context: bool = False
    ) -> None:
        super().__init__()
        self.context = ImageContext(in_channels[-1]) if context else nn.Identity()
        self.laterals = nn.ModuleList(nn.Conv2d(c, pyramid_channels, 1) for c in reversed(in_channels))
        self.branches = nn.ModuleList(
            SegmentationBlock(pyramid_channels, channels, n_upsamples=doublings)
            for doublings in reversed(range(len(in_channels)))
        )
        self.memory_projections = nn.ModuleList(nn.Conv2d(pyramid_channels, channels, 1) for _ in in_channels[1:])
        self.mask_projection = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Sequence[Tensor]) -> PixelFeatures:
        """Maps (B, C_i, h_i, w_i) at strides 4, 8, 16 and 32 to ``PixelFeatures``."""
        maps: list[Tensor] = []
        *finer, deepest = features
        for lateral, feature in zip(self.laterals, (self.context(deepest), *reversed(finer)), strict=True):
            projected = lateral(feature)
            if maps:
                projected = projected + F.interpolate(maps[-1], size=projected.shape[-2:], mode="nearest")
            maps.append(projected)
        # Images are padded to multiples of 32, so all branches end at the size of stride 4.
        merged = reduce(torch.add, (branch(level) for branch, level in zip(self.branches, maps, strict=True)))
        stride_32, stride_16, stride_8 = (
            project(level) for project, level in zip(self.memory_projections, maps[:3], strict=True)
        )
        return PixelFeatures(self.mask_projection(merged), (stride_32, stride_16, stride_8))


PixelDecoder = DeformablePixelDecoder | FPNPixelDecoder | SemanticFPNPixelDecoder


def build_pixel_decoder(
    name: PixelDecoderName, in_channels: Sequence[int], channels: int, **options: int
) -> PixelDecoder:
    """Builds the pixel decoder of a name.

    Args:
        name: which.
        in_channels: channels of the encoder's maps at strides 4, 8, 16 and 32.
        channels: width D.
        **options: those of the deformable one alone.
    """
    if name == "fpn":
        return FPNPixelDecoder(in_channels, channels)
    if name in ("semantic_fpn", "context_fpn"):
        return SemanticFPNPixelDecoder(in_channels, channels, context=name == "context_fpn")
    return DeformablePixelDecoder(in_channels, channels, **options)
