"""Builds any encoder of smp, timm or open_clip by its name."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
from timm.models import is_model_in_modules
from torch import nn

from mtaclip_plugin.encoders.clip import ClipEncoder
from mtaclip_plugin.encoders.dpt import build_dpt_encoder
from mtaclip_plugin.encoders.names import SUGGESTION, check_encoder_name, timm_name
from mtaclip_plugin.encoders.plain_vit import TIMM_MODULES, build_timm_vit
from mtaclip_plugin.encoders.swin import SWIN_MODULES, build_swin
from mtaclip_plugin.text.clip import create_clip


def build_encoder(
    name: str,
    *,
    in_channels: int = 3,
    depth: int = 5,
    weights: str | None = "imagenet",
    visual: nn.Module | None = None,
    **options: Any,
) -> nn.Module:
    """Builds an smp encoder, a timm model as ``tu-NAME``, or the image tower of an open_clip model.

    Args:
        name: encoder name; ``"clip"`` for ``visual``, ``"clip:NAME"`` for the image tower of another open_clip model;
            ``"dpt:NAME"`` for the encoder that smp's DPT makes of a timm model.
        in_channels: image channels.
        depth: number of stages, 3 to 5; a plain vision transformer has none.
        weights: name of pretrained weights; ``None`` for random ones; ``"clip"`` has its own.
        visual: the image tower of the open_clip model in use.
        **options: passed to timm; smp's own encoders take ``output_stride`` alone, open_clip's none.

    Raises:
        ValueError: for an unknown name, or options that the encoder would ignore.
        ConnectionError: if pretrained weights could not be fetched.
    """
    clip, architecture = name.partition(":")[0] == "clip", timm_name(name)
    if not clip:
        check_encoder_name(name)
    ignored = options.keys() - (set() if clip else {"output_stride"})
    if ignored and architecture is None:
        raise ValueError(
            f"neither this model nor encoder '{name}' knows {sorted(ignored)}: leave out the options of another head; "
            "those of a timm model are for 'tu-' encoders"
        )
    if clip:
        return ClipEncoder(_image_tower(name, weights, visual), in_channels=in_channels, depth=depth)
    if architecture is not None and "swin" in architecture:
        options.setdefault("strict_img_size", False)
    try:
        if architecture is not None and name.startswith("dpt:"):
            return build_dpt_encoder(architecture, in_channels=in_channels, pretrained=weights is not None, **options)
        if architecture is not None and is_model_in_modules(architecture, TIMM_MODULES):
            return build_timm_vit(architecture, in_channels=in_channels, pretrained=weights is not None, **options)
        if architecture is not None and is_model_in_modules(architecture, SWIN_MODULES):
            return build_swin(name, in_channels=in_channels, depth=depth, pretrained=weights is not None, **options)
        # A timm model's weights are part of its name: smp asks no more than whether they are wanted.
        wanted = True if architecture is not None and weights is not None else weights
        return smp.encoders.get_encoder(name, in_channels=in_channels, depth=depth, weights=wanted, **options)
    except KeyError as error:
        raise ValueError(str(error.args[0])) from error
    except OSError as error:
        raise ConnectionError(
            f"the pretrained weights '{weights}' of encoder '{name}' could not be fetched; connect to the network, "
            "fill the hub's cache beforehand, or pass encoder_weights=None"
        ) from error
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        given = f" with {options}" if options else ""
        raise ValueError(f"encoder '{name}'{given} can not be built ({error}); {SUGGESTION}") from error


def _image_tower(name: str, weights: str | None, visual: nn.Module | None) -> nn.Module:
    if name != "clip":
        return create_clip(name.removeprefix("clip:"), weights).visual
    if visual is None:
        raise ValueError(
            "encoder_name='clip' is the image tower of the open_clip model that text_encoder names: name one there, "
            "or name it in encoder_name as 'clip:RN50'"
        )
    return visual
