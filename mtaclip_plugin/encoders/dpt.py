"""The encoder of smp's DPT: a vision transformer whose maps all lie at one stride, behind a pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from timm.models import is_model_in_modules
from torch import Tensor, nn

from mtaclip_plugin.encoders.plain_vit import TIMM_MODULES, let_size_vary, map_at_stride_16


def build_dpt_encoder(name: str, *, in_channels: int, pretrained: bool, **options: Any) -> TimmViTEncoder:
    """Builds an encoder of the layout that a DPT's has, with its deepest map alone.

    Args:
        name: timm model name.
        in_channels: image channels.
        pretrained: whether to fetch its weights.
        **options: passed to smp's encoder: ``output_indices``, the one block whose output is the map, the last if
            not given; and to timm.
    """
    if is_model_in_modules(name, TIMM_MODULES):
        options["dynamic_img_size"] = True
    encoder = TimmViTEncoder(name, pretrained=pretrained, in_channels=in_channels, depth=1, **options)
    take_any_size(encoder)
    return encoder


def take_any_size(encoder: TimmViTEncoder) -> None:
    """Lets an encoder that was built for images of one size take any, in place; what it gives at that size stays.

    Raises:
        ValueError: for a vision transformer that can only be built so.
    """
    model: Any = encoder.model
    if hasattr(model, "dynamic_img_size") and not let_size_vary(model):  # of others it is found out
        raise ValueError(
            f"the encoder '{encoder.name}' takes images of one size; build its DPT with dynamic_img_size=True"
        )


def encode(encoder: nn.Module, image: Tensor) -> Sequence[Tensor]:
    """An encoder's maps of images (B, C, H, W); of a DPT's the images and its deepest map, resized to stride 16."""
    if isinstance(encoder, TimmViTEncoder):
        return [image, map_at_stride_16(lambda image: encoder(image)[0][-1], encoder.output_stride, image)]
    features: Sequence[Tensor] = encoder(image)
    return features
