"""Which maps an encoder gives, seen by running it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import Tensor, nn

from mtaclip_plugin.encoders.dpt import encode
from mtaclip_plugin.encoders.names import SUGGESTION
from mtaclip_plugin.encoders.plain_vit import STRIDE
from mtaclip_plugin.encoders.swin import swin_stages

STRIDES = (4, 8, 16, 32)

_PADDINGS = (32, 64, 128, 192, 224, 256, 384, 448, 512)
"""Multiples to try for the input size, the smallest that the encoder takes wins (MaxViT wants its window x 32)."""


@dataclass(frozen=True)
class EncoderMaps:
    """What an encoder was seen to give.

    Attributes:
        indices: positions of the chosen maps in the encoder's output, from stride 4 on; at most four. Of a plain
            vision transformer one, at stride 16.
        channels: their channels.
        strides: their strides in pixels.
        size_multiple: the encoder takes images whose height and width are multiples of this, in pixels.
        unnormed: whether they are sums of residual branches that no norm has followed, as Swin's and a DPT's are.
    """

    indices: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    size_multiple: int
    unnormed: bool


def find_maps(encoder: nn.Module, in_channels: int) -> EncoderMaps:
    """Runs the encoder once on zeros and chooses its maps by their measured reduction.

    Args:
        encoder: gives a list of maps for an image (B, C, H, W).
        in_channels: C.

    Raises:
        ValueError: if the encoder has no map at stride 4, skips a stride below its deepest map, or takes no image.
    """
    features, size_multiple = _probe(encoder, in_channels)
    height = 2 * size_multiple
    # Of several maps of one stride (dilated encoders) the deepest counts; 0 channels mark a stride left out.
    chosen = {height // f.shape[-2]: index for index, f in enumerate(features) if f.shape[1] > 0}
    strides = [stride for stride in STRIDES if stride in chosen]
    if not strides or (tuple(strides) != STRIDES[: len(strides)] and strides != [STRIDE]):
        found = ", ".join(str(s) for s in chosen)
        raise ValueError(f"{_named(encoder)} has maps at strides {found}, not at 4 and the ones after it; {SUGGESTION}")
    indices = tuple(chosen[stride] for stride in strides)
    channels = tuple(features[index].shape[1] for index in indices)
    unnormed = isinstance(encoder, TimmViTEncoder) or bool(swin_stages(encoder))
    return EncoderMaps(indices, channels, tuple(strides), size_multiple, unnormed)


@torch.no_grad()
def _probe(encoder: nn.Module, in_channels: int) -> tuple[Sequence[Tensor], int]:
    modes = {module: module.training for module in encoder.modules()}
    parameter = next(encoder.parameters())
    encoder.eval()
    try:
        for multiple in _PADDINGS:
            # Two unequal sides, so that a size that fits by chance alone does not pass.
            image = torch.zeros(1, in_channels, 2 * multiple, multiple, device=parameter.device, dtype=parameter.dtype)
            try:
                return encode(encoder, image), multiple
            except (RuntimeError, AssertionError, ValueError) as error:
                reason = error
    finally:
        for module, training in modes.items():
            module.training = training
    sides = f"takes no image whose sides are multiples of {_PADDINGS}"
    raise ValueError(f"{_named(encoder)} {sides} ({reason}); {SUGGESTION}")


def _named(encoder: nn.Module) -> str:
    """What a user knows an encoder by; those of timm bear the name of the model."""
    return f"encoder '{encoder.name}'" if hasattr(encoder, "name") else type(encoder).__name__
