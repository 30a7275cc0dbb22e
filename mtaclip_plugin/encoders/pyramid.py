"""Four maps at strides 4, 8, 16 and 32, of those that an encoder has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from mtaclip_plugin.encoders.maps import STRIDES, EncoderMaps
from mtaclip_plugin.encoders.swin import NORM_EPS

GROUPS = 32
"""Groups of every GroupNorm."""


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
