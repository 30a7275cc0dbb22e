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
        classes = F.normalize(text[:, :-1].mean(0), dim=-1)
        pixels = self.projection(mask_features)
        with torch.autocast(pixels.device.type, enabled=False):  # the scale would blow up rounded cosines
            dtype = self.log_scale.dtype
            norms = pixels.to(dtype).norm(dim=1, keepdim=True).clamp(min=1e-6)
            cosines = torch.einsum("bthw,kt->bkhw", pixels.to(dtype), classes.to(dtype)) / norms
        return bounded_scale(self.log_scale) * cosines
