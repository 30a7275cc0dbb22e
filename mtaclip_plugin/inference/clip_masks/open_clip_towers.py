"""Pooling over masks in open_clip's own image towers."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from mtaclip_plugin.encoders.clip import ClipEncoder
from mtaclip_plugin.inference.clip_masks.pooling import MaskPooling, attend, average, heads_apart


class OpenClipPooling(MaskPooling):
    """A tower that can also be an encoder, which then may lend what it made of the images.

    Args:
        visual: the image tower.
    """

    def __init__(self, visual: ModifiedResNet | VisionTransformer) -> None:
        encoder = ClipEncoder(visual, in_channels=3, depth=5)
        super().__init__(visual, encoder.cell_size)
        self.encoder = encoder  # made of the tower's own modules

    def unpooled(self, images: Tensor) -> Tensor:
        """See ``ClipEncoder.unpooled``."""
        return self.encoder.unpooled(images)


class ResNetPooling(OpenClipPooling):
    """The attention pool of a map that has no cells but those of the mask, as in FC-CLIP (Yu et al., NeurIPS 2023)."""

    def forward(self, unpooled: Tensor, shares: Tensor) -> Tensor:
        """(B, C, h', w') maps and (B, Q, h', w') shares to (B, Q, T) embeddings."""
        pool: Any = self.visual.attnpool
        positions = resample_abs_pos_embed(pool.positional_embedding[None], list(unpooled.shape[2:]))
        cells, shares = unpooled.flatten(2).mT, shares.flatten(2)
        # The pool asks with the mean of the map, and looks at it too: each mask at its own.
        means = average(cells, shares) + positions[:, :1]
        tokens = torch.cat([means, cells + positions[:, 1:]], 1)
        own = torch.eye(means.shape[1], dtype=shares.dtype, device=shares.device).expand(len(shares), -1, -1)
        query, key, value = (
            heads_apart(projection(which), pool.num_heads)
            for projection, which in ((pool.q_proj, means), (pool.k_proj, tokens), (pool.v_proj, tokens))
        )
        return pool.c_proj(attend(query, key, value, torch.cat([own, shares], -1)))


class VisionTransformerPooling(OpenClipPooling):
    """The tower's own kind of pooling, over the tokens of the mask.

    Where a class token pools, the value path of the last block takes its place: each token looks at itself alone,
    which leaves its words of the last block in the space of the class token, as in MaskCLIP (Zhou et al.: "Extract
    Free Dense Labels from CLIP", ECCV 2022), and their mean over the mask is taken. Where an attentional pool looks
    at the class token, which stands for the image as a whole, it does so as much as the mask covers of the image.

    """

    def forward(self, unpooled: Tensor, shares: Tensor) -> Tensor:
        """(B, 1 + h'·w', C) tokens that the last block gets and (B, Q, h', w') shares to (B, Q, T) embeddings."""
        visual: Any = self.visual
        block, shares = visual.transformer.resblocks[-1], shares.flatten(2)
        if visual.attn_pool is not None:
            pooled = visual.ln_post(self._attend(block(unpooled), shares)).mean(2)
        else:
            patches = unpooled[:, 1:]
            if visual.pool_type == "tok":
                patches = block(patches.flatten(0, 1).unsqueeze(1)).view_as(patches)
            else:
                patches = block(unpooled)[:, 1:]
            if visual.final_ln_after_pool:
                pooled = visual.ln_post(average(patches, shares))
            else:
                pooled = average(visual.ln_post(patches), shares)
        return pooled if visual.proj is None else pooled @ visual.proj

    def _attend(self, tokens: Tensor, shares: Tensor) -> Tensor:
        """The queries of the attentional pool that count, (B, Q, ·, width), of tokens (B, 1 + N, C)."""
        pool: Any = self.visual.attn_pool
        queries = pool.ln_q(pool.query)
        queries = queries[:1] if self.visual.pool_type == "tok" else queries[1:]
        (batch, masks, _), count = shares.shape, len(queries)
        bias = torch.cat([shares.mean(-1, keepdim=True), shares], -1).log().to(tokens.dtype)
        # A row for each head, image, mask and query, as nn.MultiheadAttention wants it.
        bias = bias.repeat_interleave(count, 1).repeat_interleave(pool.attn.num_heads, 0)
        keys = pool.ln_k(tokens)
        asked = queries.repeat(masks, 1).expand(batch, -1, -1)
        attended, _ = pool.attn(asked, keys, keys, need_weights=False, attn_mask=bias)
        return attended.unflatten(1, (masks, count))
