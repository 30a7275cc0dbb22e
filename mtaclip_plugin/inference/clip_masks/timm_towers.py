"""Pooling over masks in the image towers that open_clip takes from timm."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.timm_model import TimmModel
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mtaclip_plugin.encoders.plain_vit import let_size_vary
from mtaclip_plugin.inference.clip_masks.pooling import MaskPooling, attend, average, heads_apart

_TRANSFORMERS = (VisionTransformer, Eva)


class TimmPooling(MaskPooling):
    """The tower's own head on the mean of the mask, or its attentional pool on the tokens of the mask.

    It takes convolutional towers, such as ConvNeXt, and transformers that pool by a mean, by a latent query or by a
    class token, whose place the value path of the last block takes, see ``VisionTransformerPooling``. Images are
    resized to the size of the tower unless it is a ConvNeXt or a plain vision transformer: these take any.

    Args:
        visual: the image tower, which is changed: it no longer embeds images.

    Raises:
        ValueError: for a tower that has no map, or pools it in another way.
    """

    def __init__(self, visual: TimmModel) -> None:
        trunk: Any = visual.trunk
        pooling = _pooling_of(visual)
        any_size = let_size_vary(trunk) if type(trunk) in _TRANSFORMERS else isinstance(trunk, ConvNeXt)
        super().__init__(visual, trunk.feature_info[-1]["reduction"], None if any_size else visual.image_size)
        self.by_latent = pooling == "map"
        if pooling == "token":
            trunk.blocks[-1] = _EachTokenAlone(trunk.blocks[-1])

    def unpooled(self, images: Tensor) -> Tensor:
        """The last map, (B, C, h', w') or (B, h', w', C), or the tokens (B, prefix + h'·w', C)."""
        return self.visual.trunk.forward_features(images)

    def forward(self, unpooled: Tensor, shares: Tensor) -> Tensor:
        """What ``unpooled`` gives and (B, Q, h', w') shares to (B, Q, T) embeddings."""
        trunk: Any = self.visual.trunk
        shares = shares.flatten(2)
        if self.by_latent:
            pooled = trunk.head(trunk.fc_norm(self._attend(unpooled, shares)))
            return self.visual.head(pooled)
        # The head gets an image of one cell for each mask, so that its own pooling has nothing to do.
        if unpooled.ndim == 3:
            means = average(unpooled[:, trunk.num_prefix_tokens :], shares)
            cells = means.flatten(0, 1).unsqueeze(1).expand(-1, 1 + trunk.num_prefix_tokens, -1)
        elif getattr(trunk, "output_fmt", "NCHW") == "NHWC":
            cells = average(unpooled.flatten(1, 2), shares).flatten(0, 1)[:, None, None]
        else:
            cells = average(unpooled.flatten(2).mT, shares).flatten(0, 1)[:, :, None, None]
        return self.visual.head(trunk.forward_head(cells)).unflatten(0, shares.shape[:2])

    def _attend(self, tokens: Tensor, shares: Tensor) -> Tensor:
        """The trunk's latent query at the tokens (B, prefix + N, C) of masks (B, Q, N), as (B, Q, C)."""
        trunk: Any = self.visual.trunk
        pool, prefix = trunk.attn_pool, trunk.num_prefix_tokens
        if _pools_prefix(trunk):  # as much as the mask covers of the image that these stand for
            shares = torch.cat([shares.mean(-1, keepdim=True).expand(-1, -1, prefix), shares], -1)
        else:
            tokens = tokens[:, prefix:]
        keys, values = pool.kv(tokens).chunk(2, -1)
        query = pool.q_norm(heads_apart(pool.q(pool.latent), pool.num_heads))
        keys, values = pool.k_norm(heads_apart(keys, pool.num_heads)), heads_apart(values, pool.num_heads)
        pooled = pool.proj(attend(query, keys, values, shares))
        return pooled if pool.mlp is None else pooled + pool.mlp(pool.norm(pooled))


class _EachTokenAlone(nn.Module):
    """A transformer block for which each token is a sequence of its own: attention gives back the token's value.

    Args:
        block: the block.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor, **positions: Any) -> Tensor:
        """(B, N, C) tokens to the same; where they are has no say in what they are worth."""
        return self.block(tokens.flatten(0, 1).unsqueeze(1)).view_as(tokens)


def _pooling_of(visual: TimmModel) -> str:
    """How the tower pools: by ``"avg"``, ``"token"`` or ``"map"``."""
    trunk: Any = visual.trunk
    transformer = type(trunk) in _TRANSFORMERS
    pooling: Any = trunk.global_pool if transformer else getattr(_global_pool(trunk), "pool_type", None)
    known = ("avg", "token", "map") if transformer else ("avg",)
    if pooling not in known or hasattr(visual.head, "pool") or (pooling == "map" and not _is_simple(trunk.attn_pool)):
        raise ValueError(
            "clip_masks='pool' takes image towers of timm that pool their map by a mean, a class token or one latent "
            f"query; {type(trunk).__name__} does not, or has no map: take clip_masks='crop'"
        )
    return pooling


def _global_pool(trunk: Any) -> Any:
    """Where convolutional trunks keep their pooling: in the head, or beside it."""
    return getattr(getattr(trunk, "head", trunk), "global_pool", None)


def _is_simple(pool: Any) -> bool:
    return type(pool) is AttentionPoolLatent and pool.latent_len == 1 and pool.pos_embed is None


def _pools_prefix(trunk: Any) -> bool:
    return isinstance(trunk, Eva) or getattr(trunk, "pool_include_prefix", False)
