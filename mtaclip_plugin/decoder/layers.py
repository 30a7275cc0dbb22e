"""The layer of the mask-text decoder: masked cross-attention, self-attention, feed-forward network."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def feedforward(channels: int, hidden_channels: int) -> nn.Sequential:
    """Linear, ReLU, Linear over (..., channels), Xavier initialised."""
    expand, contract = nn.Linear(channels, hidden_channels), nn.Linear(hidden_channels, channels)
    for layer in (expand, contract):
        nn.init.xavier_uniform_(layer.weight)
    return nn.Sequential(expand, nn.ReLU(), contract)


class Attention(nn.Module):
    """Multi-head attention whose mask is shared by all heads and never repeated for each.

    Args:
        channels: token width D.
        num_heads: attention heads; must divide ``channels``.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        for projection in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends.

        Args:
            query: (B, N, D).
            key: (B, S, D).
            value: (B, S, D).
            mask: (B, 1, N, S) bool, true where a query may look; ``None`` for everywhere.

        Returns:
            (B, N, D).
        """
        with nullcontext() if mask is None else mask_kept_as_bool(mask, self.num_heads):
            attended = F.scaled_dot_product_attention(
                self._heads(self.query(query)),
                self._heads(self.key(key)),
                self._heads(self.value(value)),
                attn_mask=mask,
            )
        return self.output(attended.transpose(1, 2).flatten(2))

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, heads, N, D / heads)."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def mask_kept_as_bool(mask: Tensor, num_heads: int) -> AbstractContextManager[object]:
    """Keeps the mask for the backward pass in a quarter of the memory: attention makes numbers, 0 and -inf, of it.

    A CPU's attention keeps these numbers in the shape of the mask; others repeat them for each head, where nothing is
    saved this way.
    """
    # Of one head, other tensors could be of the mask's shape.
    if mask.device.type != "cpu" or num_heads == 1 or torch.compiler.is_compiling():
        return nullcontext()

    def pack(tensor: Tensor) -> Tensor | tuple[Tensor, torch.dtype]:
        if tensor.shape == mask.shape and tensor.is_floating_point():
            return mask, tensor.dtype
        # Attention keeps its own output too, which as it is would hold the graph that holds it, until a backward pass.
        return tensor.detach()

    def unpack(packed: Tensor | tuple[Tensor, torch.dtype]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        mask, dtype = packed
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class MaskTextDecoderLayer(nn.Module):
    """One post-norm layer; mask and text tokens go through it together (section 3.2).

    Args:
        channels: token width D.
        num_heads: attention heads.
        feedforward_channels: hidden width of the feed-forward network.
    """

    def __init__(self, channels: int, num_heads: int, feedforward_channels: int) -> None:
        super().__init__()
        self.cross_attention = Attention(channels, num_heads)
        self.cross_attention_norm = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, num_heads)
        self.self_attention_norm = nn.LayerNorm(channels)
        self.feedforward = feedforward(channels, feedforward_channels)
        self.feedforward_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, positions: Tensor, memory: Tensor, memory_keys: Tensor, mask: Tensor) -> Tensor:
        """Updates all tokens.

        Args:
            tokens: (B, N, D) mask tokens, then text tokens.
            positions: (N, D) learned positions of the tokens.
            memory: (B, S, D) one map of the pixel decoder, flattened.
            memory_keys: (B, S, D) the same with the positions of its cells added.
            mask: (B, 1, N, S) bool, true where a token may look.

        Returns:
            (B, N, D).
        """
        attended = self.cross_attention(tokens + positions, memory_keys, memory, mask)
        tokens = self.cross_attention_norm(tokens + attended)
        queries = tokens + positions
        tokens = self.self_attention_norm(tokens + self.self_attention(queries, queries, tokens))
        return self.feedforward_norm(tokens + self.feedforward(tokens))
