"""Any encoder of smp or timm as four maps at strides 4, 8, 16 and 32."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from timm.layers.norm import LayerNorm2d
from timm.models import is_model_in_modules
from torch import Tensor, nn

from mtaclip_plugin.clip_encoder import ClipEncoder
from mtaclip_plugin.dpt_encoder import build_dpt_encoder, encode
from mtaclip_plugin.plain_vit import STRIDE, TIMM_MODULES, build_timm_vit
from mtaclip_plugin.swin import NORM_EPS, SWIN_MODULES, build_swin, swin_stages
from mtaclip_plugin.text.clip import create_clip

STRIDES = (4, 8, 16, 32)
GROUPS = 32
"""Groups of every GroupNorm."""

_PADDINGS = (32, 64, 128, 192, 224, 256, 384, 448, 512)
"""Multiples to try for the input size, the smallest that the encoder takes wins (MaxViT wants its window x 32)."""

_SUGGESTION = "choose one with maps at strides 4 to 32, such as 'resnet50', 'mit_b2' or 'tu-convnext_tiny'"


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
        raise ValueError(f"encoder '{name}' would ignore {sorted(ignored)}; only 'tu-' encoders take such options")
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
        raise ValueError(f"encoder '{name}'{given} can not be built ({error}); {_SUGGESTION}") from error


def _image_tower(name: str, weights: str | None, visual: nn.Module | None) -> nn.Module:
    if name != "clip":
        return create_clip(name.removeprefix("clip:"), weights).visual
    if visual is None:
        raise ValueError(
            "encoder_name='clip' is the image tower of the open_clip model that text_encoder names: name one there, "
            "or name it in encoder_name as 'clip:RN50'"
        )
    return visual


def timm_name(name: str) -> str | None:
    """The timm model of an encoder's name, ``None`` if it is not one of timm's."""
    return next((name.removeprefix(kind) for kind in ("tu-", "dpt:") if name.startswith(kind)), None)


def check_encoder_name(name: str) -> None:
    """Refuses a name that is neither one of smp's encoders nor a timm model's, and says which are alike.

    Raises:
        ValueError: for an unknown name.
    """
    if (architecture := timm_name(name)) is not None:
        if not timm.is_model(architecture):
            kind = name.removesuffix(architecture)
            close = [f"{kind}{c}" for c in difflib.get_close_matches(architecture, timm.list_models())]
            raise ValueError(f"timm has no model '{architecture}'{_did_you_mean(close)}")
    elif not name.startswith("timm-") and name not in smp.encoders.get_encoder_names():
        names = smp.encoders.get_encoder_names()
        close = difflib.get_close_matches(name, names)
        if timm.is_model(name):
            close = [f"tu-{name}", *close]
        raise ValueError(f"unknown encoder '{name}'{_did_you_mean(close)}")


def _did_you_mean(close: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else f"; {_SUGGESTION}"


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
        raise ValueError(
            f"{_named(encoder)} has maps at strides {found}, not at 4 and the ones after it; {_SUGGESTION}"
        )
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
    raise ValueError(f"{_named(encoder)} {sides} ({reason}); {_SUGGESTION}")


def _named(encoder: nn.Module) -> str:
    """What a user knows an encoder by; those of timm bear the name of the model."""
    return f"encoder '{encoder.name}'" if hasattr(encoder, "name") else type(encoder).__name__


class StridePyramid(nn.Module):
    """Picks an encoder's maps at strides 4 to 32, and makes those that it does not have.

    Deeper ones are made from its deepest map; of a plain vision transformer also the ones at strides 4 and 8, by
    transposed convolutions as in the simple feature pyramid of Li et al.: "Exploring Plain Vision Transformer
    Backbones for Object Detection", ECCV 2022, section 3.

    Maps without a norm get one each, as Swin's do in Mask2Former.

    Args:
        maps: what ``find_maps`` saw.
        channels: width of the deeper maps it makes, a multiple of 64.
    """

    def __init__(self, maps: EncoderMaps, channels: int = 256) -> None:
        super().__init__()
        self.indices = maps.indices
        self.norms = nn.ModuleList(
            LayerNorm2d(width, eps=NORM_EPS) if maps.unnormed else nn.Identity() for width in maps.channels
        )
        shallower = STRIDES.index(maps.strides[0])
        width = maps.channels[0]
        self.upsampling = nn.ModuleList(_upsampling(width, steps) for steps in range(shallower, 0, -1))
        missing = len(STRIDES) - shallower - len(maps.indices)
        widths = [maps.channels[-1], *[channels] * missing]
        self.downsampling = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(GROUPS, after))
            for before, after in pairwise(widths)
        )
        upsampled = [width // 2**steps for steps in range(shallower, 0, -1)]
        self.channels = (*upsampled, *maps.channels, *widths[1:])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """All maps of the encoder to four maps (B, C_i, h_i, w_i) at strides 4, 8, 16 and 32."""
        pyramid = [norm(features[index]) for norm, index in zip(self.norms, self.indices, strict=True)]
        upsampled = [upsample(pyramid[0]) for upsample in self.upsampling]
        for downsample in self.downsampling:
            pyramid.append(downsample(pyramid[-1]))
        return [*upsampled, *pyramid]


def _upsampling(width: int, steps: int) -> nn.Sequential:
    """Doubles the sides of a map and halves its channels, ``steps`` times."""
    layers: list[nn.Module] = []
    for step in range(steps):
        if step > 0:
            layers += [LayerNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        width //= 2
    return nn.Sequential(*layers)
