"""What is read off the decoder's tokens: classes, masks, and masks against text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip_plugin.decoder.recompute import recomputed

MAX_LOGIT_SCALE = 100.0
"""CLIP's own bound: a learned temperature must not turn the softmax into an argmax."""


def bounded_scale(log_scale: Tensor) -> Tensor:
    """The scale of a learned logarithm, bounded, and yet it can come down again."""
    scale = log_scale.exp()
    return scale + (scale.clamp(max=MAX_LOGIT_SCALE) - scale).detach()


@dataclass(frozen=True)
class TokenPrediction:
    """What one layer's tokens predict, before they meet the mask features.

    Attributes:
        class_logits: (B, Q, K+1).
        mask_embed: (B, Q, D).
        text_logits: (B, Q, P, K+1); ``None`` without text.
        text_mask_embed: (B, K, D); ``None`` where text queries have no masks of their own.
    """

    class_logits: Tensor
    mask_embed: Tensor
    text_logits: Tensor | None
    text_mask_embed: Tensor | None

    def split(self, number: int) -> list[TokenPrediction]:
        """The predictions of so many layers, whose tokens were one batch."""
        parts = [
            [None] * number if value is None else value.chunk(number)
            for value in (self.class_logits, self.mask_embed, self.text_logits, self.text_mask_embed)
        ]
        return [TokenPrediction(*of_layer) for of_layer in zip(*parts, strict=True)]


class MaskHead(nn.Module):
    """A three-layer perceptron from tokens to mask embeddings.

    Args:
        channels: token width D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) tokens to (B, N, D) mask embeddings."""
        return self.layers(tokens)


class TextAlignmentHead(nn.Module):
    """Cosine of mask tokens and image-enhanced text, times a learned scale (section 3.3).

    ``t' = normalize(t + gamma * LayerNorm(Linear(text tokens)))``, ``m = normalize(Linear(mask tokens))``,
    ``text_logits = m · t' * logit_scale``.

    Args:
        channels: token width D.
        text_channels: text embedding size T.
        temperature: start of the temperature, the inverse of the logit scale; the official code has 1.0.
        learn_temperature: whether it is trained; the official code does not.

    Raises:
        ValueError: if the temperature is infinite, or below 0.01, CLIP's own bound.
    """

    def __init__(
        self, channels: int, text_channels: int, *, temperature: float = 0.07, learn_temperature: bool = True
    ) -> None:
        super().__init__()
        self.mask_projection = nn.Linear(channels, text_channels)
        self.text_projection = nn.Linear(channels, text_channels)
        self.text_norm = nn.LayerNorm(text_channels)
        self.gamma = nn.Parameter(torch.full((text_channels,), 1e-4))
        if not 1 / MAX_LOGIT_SCALE <= temperature < math.inf:
            raise ValueError(f"temperature must be at least {1 / MAX_LOGIT_SCALE} and finite, got {temperature}")
        log_scale = torch.tensor(-math.log(temperature))
        self.logit_scale = nn.Parameter(log_scale, requires_grad=learn_temperature)

    def forward(self, mask_tokens: Tensor, text_tokens: Tensor, text: Tensor) -> Tensor:
        """Compares masks with prompts.

        Args:
            mask_tokens: (B, Q, D) normalised mask tokens.
            text_tokens: (B, P·(K+1), D) normalised text tokens, prompts outermost.
            text: (P, K+1, T) text embeddings.

        Returns:
            (B, Q, P, K+1) text logits.
        """
        update = self.text_norm(self.text_projection(text_tokens)).unflatten(1, text.shape[:2])
        masks = self.mask_projection(mask_tokens)
        scale = bounded_scale(self.logit_scale)
        with torch.autocast(masks.device.type, enabled=False):  # the scale would blow up rounded cosines
            dtype = self.gamma.dtype
            enhanced = F.normalize(text.to(dtype) + self.gamma * update.to(dtype), dim=-1)
            cosines = torch.einsum("bqt,bpkt->bqpk", F.normalize(masks.to(dtype), dim=-1), enhanced)
        return scale * cosines


class PredictionHead(nn.Module):
    """All heads behind one final norm, shared by every layer.

    Args:
        channels: token width D.
        num_classes: K.
        text_channels: T; ``None`` without text.
        temperature: see ``TextAlignmentHead``.
        learn_temperature: see ``TextAlignmentHead``.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        text_channels: int | None,
        *,
        temperature: float = 0.07,
        learn_temperature: bool = True,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.class_head = nn.Linear(channels, num_classes + 1)
        self.mask_head = MaskHead(channels)
        self.text_head: TextAlignmentHead | None = None
        if text_channels is not None:
            self.text_head = TextAlignmentHead(
                channels, text_channels, temperature=temperature, learn_temperature=learn_temperature
            )

    def forward(
        self, hidden: Tensor, mask_embed: Tensor, text: Tensor | None, text_mask_embed: Tensor | None = None
    ) -> TokenPrediction:
        """Predicts from all tokens of a layer.

        Args:
            hidden: (B, Q + P·(K+1), D), tokens after ``norm``.
            mask_embed: (B, Q, D), what ``mask_head`` made of the mask tokens.
            text: (P, K+1, T); ``None`` without text.
            text_mask_embed: (B, P·(K+1), D), what it made of the text tokens, where these have masks of their own.

        Returns:
            The layer's prediction.
        """
        num_queries = mask_embed.shape[1]
        mask_tokens, text_tokens = hidden[:, :num_queries], hidden[:, num_queries:]
        text_logits = None
        if self.text_head is not None and text is not None:
            text_logits = recomputed(self.text_head, mask_tokens, text_tokens, text)
        if text is not None and text_mask_embed is not None:
            # The mask of a class is that of all its prompts; "none" has no mask.
            text_mask_embed = text_mask_embed.unflatten(1, text.shape[:2]).mean(1)[:, :-1]
        return TokenPrediction(self.class_head(mask_tokens), mask_embed, text_logits, text_mask_embed)
