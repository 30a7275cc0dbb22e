"""Pixels against text: not in the paper, which argues for masks; beside them it is what learns soonest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip_plugin.decoder.heads import bounded_scale

LOG_SCALE = 3.4
"""Start of the logarithm of the scale; cosines of pixels and text lie closer together than those of masks."""


class PixelAlignmentHead(nn.Module):
    """Cosine of every pixel and the text of every class, times a learned scale.

    ``pixel_logits_k(x) = scale * cos(Linear(mask features(x)), mean_p text_pk)``

    Args:
        channels: width D of the mask features.
        text_channels: text embedding size T.
    """

    def __init__(self, channels: int, text_channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, text_channels, 1)
        self.log_scale = nn.Parameter(torch.tensor(LOG_SCALE))

    def forward(self, mask_features: Tensor, text: Tensor) -> Tensor:
        """Compares pixels with classes.

        Args:
            mask_features: (B, D, h, w).
            text: (P, K+1, T) text embeddings, "none" last, which takes no part: a pixel shows something.

        Returns:
            (B, K, h, w) logits.
        """
        weight, bias = self.projection.weight.flatten(1), self.projection.bias
        assert bias is not None
        with torch.autocast(mask_features.device.type, enabled=False):  # the scale would blow up rounded cosines
            dtype = torch.promote_types(mask_features.dtype, torch.float32)
            pixels, weight, bias = mask_features.to(dtype), weight.to(dtype), bias.to(dtype)
            classes = F.normalize(text[:, :-1].mean(0).to(dtype), dim=-1)
            # A pixel p = A [x; 1], as wide as text, is several times as wide as x and need not be made:
            # |p|^2 = [x; 1]'A'A [x; 1] and p . t = t'A [x; 1].
            affine = torch.cat([weight, bias[:, None]], 1)
            channels = pixels.shape[1]
            kernels, offsets = torch.cat([affine.mT @ affine, classes @ affine]).split([channels, 1], 1)
            products = F.conv2d(pixels, kernels[:, :, None, None], offsets.squeeze(1))
            squares, rest, dots = products.split([channels, 1, len(classes)], 1)
            norms = ((pixels * squares).sum(1, keepdim=True) + rest).clamp(min=1e-12).sqrt()
            return bounded_scale(self.log_scale) * (dots / norms)
