"""From embeddings of masks to probabilities of classes, and how these join those of the decoder."""

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


def join_probabilities(decoder: Tensor, clip: Tensor, weights: Tensor) -> Tensor:
    """``decoder^(1-λ) · clip^λ`` of each class, renormalised; "none" keeps the probability that the decoder gives it.

    Args:
        decoder: (B, Q, K+1) probabilities, "none" last.
        clip: (B, Q, K) probabilities; where all are 1 the decoder's stay as they are.
        weights: (K) the λ of each class.

    Returns:
        (B, Q, K+1) probabilities.
    """
    tiny = torch.finfo(decoder.dtype).tiny
    classes, none = decoder[..., :-1], decoder[..., -1:]
    total = classes.sum(-1, keepdim=True).clamp(min=tiny)
    says = (clip < 1).any(-1, keepdim=True)
    log_decoder, log_clip = ((p.clamp(min=tiny)).log() for p in (classes / total, clip))
    joined = torch.lerp(log_decoder, log_clip, weights * says).softmax(-1)
    return torch.cat([joined * total, none], -1)
