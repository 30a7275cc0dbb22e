"""Prompts through a causal text tower, without computing anew for each class what all classes share."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor, nn

from mtaclip_plugin.text.fixed import WithFixedTensors
from mtaclip_plugin.text.tower import TextTower


class SharedPrefixEncoder(WithFixedTensors):
    """Encodes ``[SOS][v_p1 ... v_pL]`` once a prompt, and ``[class name][EOS]`` once a prompt and class.

    In a causal tower no state depends on the tokens after it. So those of the prefix are the same for all classes,
    and nothing after the token that is pooled needs to be computed: of the K+1 sequences of a prompt, 77 tokens each
    in CLIP, remain one prefix and K+1 suffixes as short as the longest class name allows. What it gives differs from
    the tower's own ``encode_text`` by rounding alone, forward and backward.

    Args:
        tower: a tower that ``serves`` takes.
        ids: (K+1, S) token ids of placeholders and class names.
        prefix_length: tokens before the class name.
        pooled: (K+1) position of the token that the tower pools, of each row.
    """

    def __init__(self, tower: TextTower, ids: Tensor, prefix_length: int, pooled: Tensor) -> None:
        super().__init__()
        self.tower = tower
        self.prefix_length = prefix_length
        self.length = int(pooled.max()) + 1
        suffix_length = self.length - prefix_length
        self._fix(
            prefix_ids=ids[0, :prefix_length],
            suffix_ids=ids[:, prefix_length : self.length],
            pooled=pooled - prefix_length,
            visible=torch.ones(suffix_length, self.length, dtype=torch.bool, device=ids.device).tril(prefix_length),
        )

    @classmethod
    def serving(cls, tower: TextTower, ids: Tensor, prefix_length: int) -> Self | None:
        """An encoder of these prompts; ``None`` for a tower for which it would not be exact.

        Args:
            tower: any text tower.
            ids: (K+1, S) token ids.
            prefix_length: tokens before the class name, the same in every row.
        """
        text = tower.text
        if type(text) not in (CLIP, TextTransformer) or getattr(text, "cls_emb", None) is not None:
            return None
        if any(type(block) is not ResidualAttentionBlock for block in text.transformer.resblocks):
            return None
        if not _is_causal(text.attn_mask):
            return None
        pooled = _pooled_positions(text, ids)
        if pooled is None or (pooled < prefix_length).any():
            return None
        return cls(tower, ids, prefix_length, pooled)

    def forward(self, contexts: Tensor) -> Tensor:
        """Encodes all prompts.

        Args:
            contexts: (P, L, width), the last L tokens of the prefix.

        Returns:
            (P, K+1, T) text embeddings as the tower gives them, not normalised.
        """
        text, fixed = self.tower.text, self.fixed
        positions = text.positional_embedding[: self.length]
        start = text.token_embedding(fixed.prefix_ids[: self.prefix_length - contexts.shape[1]])
        prefix = torch.cat([start.expand(len(contexts), -1, -1), contexts.to(start.dtype)], 1)
        prefix = prefix + positions[: self.prefix_length]
        suffix = text.token_embedding(fixed.suffix_ids) + positions[self.prefix_length :]
        suffix = suffix.expand(len(contexts), -1, -1, -1)
        prefix_mask = text.attn_mask[: self.prefix_length, : self.prefix_length]
        for block in text.transformer.resblocks:
            attended = self._attend(block.attn, block.ln_1(suffix), block.ln_1(prefix))
            suffix = suffix + block.ls_1(attended)
            suffix = suffix + block.ls_2(block.mlp(block.ln_2(suffix)))
            prefix = block(prefix, attn_mask=prefix_mask)
        pooled = suffix[:, torch.arange(len(fixed.pooled), device=suffix.device), fixed.pooled]
        return _project(text, text.ln_final(pooled))

    def _attend(self, attention: Any, suffix: Tensor, prefix: Tensor) -> Tensor:
        """From each token of a suffix to the prefix of its prompt and to the suffix up to itself.

        Args:
            attention: the block's ``nn.MultiheadAttention``.
            suffix: (P, K+1, S, width) normed states.
            prefix: (P, S', width) normed states.

        Returns:
            (P, K+1, S, width).
        """
        heads = attention.num_heads
        classes, length = suffix.shape[1:3]
        # Heads to the front; the prefix is not repeated for the classes, whose tokens all look at it together.
        projected = F.linear(suffix.flatten(1, 2), attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = projected.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        width = prefix.shape[-1]
        projected = F.linear(prefix, attention.in_proj_weight[width:], attention.in_proj_bias[width:])
        keys, values = projected.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        query = query * query.shape[-1] ** -0.5
        by_class = (classes, length)
        to_prefix = (query @ keys.mT).unflatten(2, by_class)
        to_suffix = query.unflatten(2, by_class) @ key.unflatten(2, by_class).mT
        weights = torch.cat([to_prefix, to_suffix], -1).masked_fill(~self.fixed.visible, -torch.inf).softmax(-1)
        from_prefix, from_suffix = weights.split([prefix.shape[1], length], -1)
        attended = (from_prefix.flatten(2, 3) @ values).unflatten(2, by_class)
        attended = attended + from_suffix @ value.unflatten(2, by_class)
        return attention.out_proj(attended.permute(0, 2, 3, 1, 4).flatten(-2))


def _is_causal(mask: Tensor | None) -> bool:
    return mask is not None and torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1))


def _pooled_positions(text: Any, ids: Tensor) -> Tensor | None:
    """(N) position of the token whose state the tower takes; ``None`` if that is no single one by its id."""
    pooling = text.text_pool_type if isinstance(text, CLIP) else text.pool_type
    if pooling == "argmax":
        return ids.argmax(1)
    if pooling == "eos":
        end = text.text_eos_id if isinstance(text, CLIP) else text.eos_id
        return (ids == end).int().argmax(1)
    return None


def _project(text: Any, pooled: Tensor) -> Tensor:
    if text.text_projection is None:
        return pooled
    if isinstance(text.text_projection, nn.Linear):
        return text.text_projection(pooled)
    return pooled @ text.text_projection
