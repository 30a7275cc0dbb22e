"""The Mask-Text Decoder: mask queries and text queries refined together (section 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip_plugin.decoder.heads import PredictionHead, TokenPrediction
from mtaclip_plugin.decoder.layers import MaskTextDecoderLayer
from mtaclip_plugin.decoder.pixel_decoder import PixelFeatures
from mtaclip_plugin.decoder.positions import sine_positions
from mtaclip_plugin.structures import predictions_at_once

InputNorm = Literal["text", "all"]
TextPositions = Literal["prompt", "token"]


class MaskTextDecoder(nn.Module):
    """Mask and text tokens attend to the pixels within their own masks, then to each other.

    Without text it is Mask2Former's decoder exactly.

    Args:
        num_classes: K.
        channels: token width D.
        num_queries: mask queries Q.
        num_layers: decoder layers; the memories at strides 32, 16 and 8 are taken in turn.
        num_heads: attention heads.
        feedforward_channels: hidden width of the feed-forward networks.
        text_shape: (P, T), prompts a class and text embedding size; ``None`` without text.
        input_norm: what the first LayerNorm covers; ``"all"`` tokens is the official code's way, with ``"text"``
            the mask queries start as Mask2Former's do.
        text_positions: a learned position for each ``"prompt"`` leaves the decoder equivariant to the order of the
            classes and the class list free to change; one for each ``"token"`` is the official code's way.
        text_masks: whether the masks of text queries are predicted too, with gradient; else they say where these look
            and nothing else.
        temperature: see ``TextAlignmentHead``.
        learn_temperature: see ``TextAlignmentHead``.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        *,
        num_queries: int = 100,
        num_layers: int = 9,
        num_heads: int = 8,
        feedforward_channels: int = 2048,
        text_shape: tuple[int, int] | None = None,
        input_norm: InputNorm = "text",
        text_positions: TextPositions = "prompt",
        text_masks: bool = False,
        temperature: float = 0.07,
        learn_temperature: bool = True,
    ) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.input_norm = input_norm
        self.text_masks = text_masks
        self.mask_queries = nn.Embedding(num_queries, channels)
        self.mask_positions = nn.Embedding(num_queries, channels)
        self.level_embedding = nn.Embedding(3, channels)
        self.layers = nn.ModuleList(
            MaskTextDecoderLayer(channels, num_heads, feedforward_channels) for _ in range(num_layers)
        )
        text_channels = None
        if text_shape is not None:
            num_prompts, text_channels = text_shape
            self.text_projection = nn.Linear(text_channels, channels)
            self.text_norm = nn.LayerNorm(channels)
            tokens = {"prompt": num_prompts, "token": num_prompts * (num_classes + 1)}
            self.text_positions = nn.Embedding(tokens[text_positions], channels)
        self.head = PredictionHead(
            channels, num_classes, text_channels, temperature=temperature, learn_temperature=learn_temperature
        )

    def forward(self, features: PixelFeatures, text: Tensor | None, *, auxiliary: bool) -> list[TokenPrediction]:
        """Refines the tokens layer by layer.

        Args:
            features: mask features and memories of the pixel decoder.
            text: (P, K+1, T) text embeddings; ``None`` without text.
            auxiliary: whether to predict before the first layer and after each one, or after the last alone.

        Returns:
            The predictions in order; only the last one without ``auxiliary``.
        """
        tokens, positions = self._tokens(text)
        tokens = tokens.expand(features.mask_features.shape[0], -1, -1)  # len() would fix the batch of an export
        memories, memory_keys = self._memories(features)
        resized = self._resized_mask_features(features)

        at_once = self._read_at_once(tokens, text) if auxiliary else 1
        predictions: list[TokenPrediction] = []
        unread: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if at_once > 1:
                unread.append(tokens)
                mask_embed = self.head.mask_head(self.head.norm(tokens.detach()))
            else:
                hidden, mask_embed, text_embed = self._embed(tokens)
                if auxiliary:
                    predictions.append(self.head(hidden, mask_embed, text, text_embed))
                mask_embed = self._of_all_tokens(hidden, mask_embed, text_embed)
            level = index % len(memories)
            mask = attention_mask(mask_embed, resized[level])
            tokens = layer(tokens, positions, memories[level], memory_keys[level], mask)
        unread.append(tokens)
        for start in range(0, len(unread), at_once):
            of_layers = unread[start : start + at_once]
            hidden, mask_embed, text_embed = self._embed(of_layers[0] if len(of_layers) == 1 else torch.cat(of_layers))
            read = self.head(hidden, mask_embed, text, text_embed)
            predictions += [read] if len(of_layers) == 1 else read.split(len(of_layers))
        return predictions

    @staticmethod
    def _read_at_once(tokens: Tensor, text: Tensor | None) -> int:
        """Of how many layers the heads read the tokens (B, N, D) at once, after all of them; 1: after each layer.

        Where a layer may look it tells at once, without a gradient, so reading later costs a second pass through the
        mask head.
        """
        if torch.compiler.is_compiling():  # which fuses small operations by itself; and exports are for any batch
            return 1
        columns = tokens.shape[2] if text is None else max(tokens.shape[2], text.shape[2])
        return predictions_at_once(tokens.shape[0] * tokens.shape[1] * columns, tokens.device)

    def _embed(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normed tokens (B, N, D), mask embeddings (B, Q, D) of mask tokens and, if asked for, of text tokens."""
        hidden = self.head.norm(tokens)
        mask_embed = self.head.mask_head(hidden[:, : self.num_queries])
        return hidden, mask_embed, self.head.mask_head(hidden[:, self.num_queries :]) if self.text_masks else None

    @torch.no_grad()
    def _of_all_tokens(self, hidden: Tensor, mask_embed: Tensor, text_embed: Tensor | None) -> Tensor:
        """Mask embeddings (B, N, D) of all tokens, which say where these look; no gradient needs them for that."""
        if text_embed is None:
            text_embed = self.head.mask_head(hidden[:, self.num_queries :].detach())
        return torch.cat([mask_embed, text_embed], 1)

    def _tokens(self, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """All tokens (N, D) before the first layer and their positions (N, D)."""
        tokens, positions = self.mask_queries.weight, self.mask_positions.weight
        if text is None:
            return tokens, positions
        projected = self.text_projection(text).flatten(0, 1)
        if self.input_norm == "all":
            tokens = self.text_norm(torch.cat([tokens, projected]))
        else:
            tokens = torch.cat([tokens, self.text_norm(projected)])
        text_positions = self.text_positions.weight
        text_positions = text_positions.repeat_interleave(len(projected) // len(text_positions), 0)
        return tokens, torch.cat([positions, text_positions])

    def _memories(self, features: PixelFeatures) -> tuple[list[Tensor], list[Tensor]]:
        """Flattened memories (B, S_i, D) with their level embedding, and the same with their cells' positions."""
        memories = [
            memory.flatten(2).transpose(1, 2) + level
            for memory, level in zip(features.memories, self.level_embedding.weight, strict=True)
        ]
        shapes = [(memory.shape[-2], memory.shape[-1]) for memory in features.memories]
        positions = sine_positions(shapes, memories[0].shape[-1], like=features.memories[0])
        parts = positions.split([height * width for height, width in shapes])
        return memories, [memory + part for memory, part in zip(memories, parts, strict=True)]

    @staticmethod
    def _resized_mask_features(features: PixelFeatures) -> list[Tensor]:
        """Mask features (B, D, S_i) at each memory's size.

        Resizing is linear: it gives the resized logits of any number of masks without their full-size logits.
        """
        mask_features = features.mask_features.detach()
        return [
            F.interpolate(mask_features, size=memory.shape[-2:], mode="bilinear", align_corners=False).flatten(2)
            for memory in features.memories
        ]


def attention_mask(mask_embed: Tensor, resized_features: Tensor) -> Tensor:
    """Where each token may look: inside its own mask, or everywhere if that is empty.

    Args:
        mask_embed: (B, N, D) mask embeddings of all tokens.
        resized_features: (B, D, S) mask features at the memory's size, flattened.

    Returns:
        (B, 1, N, S) bool; no gradient flows through it.
    """
    inside = mask_embed.detach() @ resized_features >= 0  # where the sigmoid is at least one half
    inside = inside == inside.any(-1, keepdim=True)  # of an empty mask, all is as empty as the whole
    return inside.unsqueeze(1)
