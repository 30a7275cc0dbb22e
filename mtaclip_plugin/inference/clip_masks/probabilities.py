"""From embeddings of masks to probabilities of classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def embedding_probabilities(embeddings: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Softmax over the classes of CLIP's own logits, each class's most similar prompt counting.

    Args:
        embeddings: (..., T) of masks.
        text: (P, K+1, T) text embeddings, "none" last, which is not looked at: CLIP's image tower is asked which
            class a mask shows, not whether it shows one.
        logit_scale: () or (1), the tower's own.

    Returns:
        (..., K) float32.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        classes = F.normalize(text[:, :-1].float(), dim=-1)
        cosines = torch.einsum("...t,pkt->...pk", F.normalize(embeddings.float(), dim=-1), classes).amax(-2)
        return (logit_scale.float() * cosines).softmax(-1)
