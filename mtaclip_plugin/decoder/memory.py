"""How much memory recomputation saves, by count, and whether a GPU has it to spare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from mtaclip_plugin.decoder.deformable.triton_sampling import samples_by_kernel
from mtaclip_plugin.decoder.mask_text_decoder import MaskTextDecoder
from mtaclip_plugin.decoder.pixel_decoder import DeformableEncoderLayer, DeformablePixelDecoder, PixelDecoder

SHARE = 1 / 6
"""Of a GPU's memory, what may be kept that could be made again.

At 512 x 512 on a ResNet-50 a training step that keeps it takes up to three times as much in all. So where a sixth is
enough for it, half of the memory is for the step, with some left for a larger encoder.
"""


def has_to_spare(device: torch.device, size: int) -> bool:
    """Whether a device has the memory for what recomputation saves; what else lies on it is not looked at.

    So the answer is the same at each step, and nothing waits for the device.

    Args:
        device: any; those that are no GPU of CUDA have not.
        size: bytes.
    """
    return device.type == "cuda" and size <= SHARE * torch.cuda.get_device_properties(device).total_memory


@dataclass(frozen=True)
class Recomputation:
    """What is made again in the backward pass of a decoder: the large tensors alone, so the count is a rough one.

    Attributes:
        samples: numbers for each cell at strides 8 to 32, of samples of deformable attention and their values; none
            where a kernel sums them as it samples.
        head_width: of deformable attention.
        hidden: numbers for each of these cells, between the layers of feed-forward networks and before projections.
        stride_4: numbers for each cell at stride 4, before a norm and after one.
        text: numbers for each number of the text embeddings, in all text heads.
    """

    samples: int
    head_width: int
    hidden: int
    stride_4: int
    text: int

    @classmethod
    def of(cls, pixels: PixelDecoder, tokens: MaskTextDecoder) -> Self:
        """Counts for these decoders, as they are built."""
        text = 4 * (len(tokens.layers) + 1)
        if not isinstance(pixels, DeformablePixelDecoder):
            return cls(samples=0, head_width=0, hidden=0, stride_4=0, text=text)
        channels, samples, head_width, hidden = pixels.mask_projection.in_channels, 0, 0, 0
        for layer in pixels.layers:
            assert isinstance(layer, DeformableEncoderLayer)
            expand = layer.feedforward[0]
            assert isinstance(expand, nn.Linear)
            samples += channels * (layer.attention.num_levels * layer.attention.num_points + 1)
            head_width = channels // layer.attention.num_heads
            hidden += 2 * channels + expand.out_features
        return cls(samples=samples, head_width=head_width, hidden=hidden, stride_4=2 * channels, text=text)

    def size(self, pyramid: Sequence[Tensor], text: Tensor | None) -> int:
        """Bytes that it saves, all in float32.

        Args:
            pyramid: four maps (B, C_i, h_i, w_i) at strides 4, 8, 16 and 32.
            text: (P, K+1, T); ``None`` without text.
        """
        stride_4, *coarser = (level.shape[-2:].numel() for level in pyramid)
        samples = 0 if samples_by_kernel(pyramid[0].device, self.head_width) else self.samples
        numbers = stride_4 * self.stride_4 + sum(coarser) * (self.hidden + samples)
        numbers += 0 if text is None else text.numel() * self.text
        return len(pyramid[0]) * numbers * torch.float32.itemsize
