"""An image tower whose pooling over the image is replaced by one over each mask; what several towers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class MaskPooling(nn.Module, ABC):
    """An open_clip image tower that embeds masks of an image instead of the image.

    It is the tower's own forward pass: all before the pooling once an image, all after it once a mask. So the mask
    that is everywhere gets the embedding of the image, but where a class token pools: that has no part in a mask.

    Args:
        visual: the image tower.
        cell_size: side in pixels of a cell of the map that is pooled.
        image_size: (height, width) of the images that the tower takes; ``None`` for any whole number of cells.
    """

    def __init__(self, visual: Any, cell_size: int, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.visual = visual
        self.cell_size = cell_size
        self.image_size = image_size

    @abstractmethod
    def unpooled(self, images: Tensor) -> Tensor:
        """What the tower makes of images (B, 3, H', W') before it pools, in a layout of its own."""

    @abstractmethod
    def forward(self, unpooled: Tensor, shares: Tensor) -> Tensor:
        """Embeds masks.

        Args:
            unpooled: what ``unpooled`` gave.
            shares: (B, Q, h', w') float32, how much of each cell of the image lies in each mask, 0 to 1; no mask is
                empty.

        Returns:
            (B, Q, T) embeddings, not normalised.
        """


def average(tokens: Tensor, shares: Tensor) -> Tensor:
    """The mean of tokens (B, N, C) over masks (B, Q, N) as (B, Q, C)."""
    return (shares / shares.sum(-1, keepdim=True)).to(tokens.dtype) @ tokens


def heads_apart(tokens: Tensor, heads: int) -> Tensor:
    """Tokens (B, N, C) as (B, heads, N, C/heads)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, shares: Tensor) -> Tensor:
    """Attention that sees of each token only the share that lies in the mask: half a token is seen half as much.

    Args:
        query: (B or 1, heads, Q or 1, d).
        key: (B, heads, N, d).
        value: (B, heads, N, d).
        shares: (B, Q, N) from 0 to 1.

    Returns:
        (B, Q, heads·d).
    """
    query = query.expand(shares.shape[0], -1, shares.shape[1], -1)  # len() would fix the batch of an export
    bias = shares.log()[:, None].to(query.dtype)
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)
