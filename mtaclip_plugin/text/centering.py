"""Text without what all class names have in common: not in the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TextCentering(nn.Module):
    """``normalize(t - mean of the trained names' t)``, prompt by prompt.

    CLIP's embeddings of class names lie close together; centred, they are told apart from the first step on. The mean
    is that of the last step of training, and what names that come later are centred on. It is a buffer, as the
    statistics of batch norms are: averages of weights take buffers along, or are followed by
    ``torch.optim.swa_utils.update_bn``.

    Args:
        num_prompts: P.
        text_channels: T.
    """

    mean: Tensor

    def __init__(self, num_prompts: int, text_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_prompts, 1, text_channels))

    @torch.no_grad()
    def keep_mean(self, text: Tensor) -> None:
        """Takes the mean of the K names of (P, K+1, T) text embeddings, "none" last and not among them."""
        self.mean.copy_(text[:, :-1].mean(1, keepdim=True))

    def forward(self, text: Tensor) -> Tensor:
        """(P, K+1, T) text embeddings, "none" last, to centred ones of unit norm."""
        if not self.training:
            return F.normalize(text - self.mean, dim=-1)
        mean = text[:, :-1].mean(1, keepdim=True)
        with torch.no_grad():
            self.mean.copy_(mean)
        return F.normalize(text - mean, dim=-1)
