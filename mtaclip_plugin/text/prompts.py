"""Mask-Text Prompt Learning: learned contexts before each class name (section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from mtaclip_plugin.text.class_names import NONE_NAME
from mtaclip_plugin.text.shared_prefix import SharedPrefixEncoder
from mtaclip_plugin.text.tower import PLACEHOLDER, TextTower


class PromptLearner(nn.Module):
    """``[v_p1 ... v_pL][class name]`` through a frozen text tower, for P contexts that all classes share.

    Only the contexts are parameters. They stay float32 under autocast.

    Args:
        tower: the frozen text tower.
        class_names: the K class names; "none" is added.
        num_prompts: contexts P.
        context_length: learned tokens L of each.
        shared_prefix: whether causal towers compute the contexts' states once a prompt instead of once a class,
            which is exact to rounding and many times cheaper; other towers never do.

    Raises:
        ValueError: if a prompt is longer than the tower reads, or the tokenizer has no token to put contexts for.
    """

    ids: Tensor

    def __init__(
        self,
        tower: TextTower,
        class_names: Sequence[str],
        *,
        num_prompts: int = 3,
        context_length: int = 8,
        shared_prefix: bool = True,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.num_prompts = num_prompts
        # As in CoOp; the official code draws them with a standard deviation of 1.
        self.contexts = nn.Parameter(torch.randn(num_prompts, context_length, tower.width) * 0.02)
        names = (*class_names, NONE_NAME)
        prompts = [" ".join([PLACEHOLDER] * context_length + [name]) for name in names]
        for name, fits in zip(names, tower.fits(prompts), strict=True):
            if not fits:
                raise ValueError(
                    f"class name '{name}' after {context_length} learned tokens is longer than the "
                    f"{tower.context_length} tokens that '{tower.name}' reads; shorten it, or context_length"
                )
        ids = tower.tokenize(prompts)
        self.register_buffer("ids", ids, persistent=False)
        self.start = _find_placeholders(tower, ids[0], context_length)
        self.encoder = None
        if shared_prefix:
            self.encoder = SharedPrefixEncoder.serving(tower, ids, self.start + context_length)
        with torch.no_grad():
            self.text_channels = tower.encode(ids[:1], self.contexts[:1], self.start).shape[-1]

    def forward(self) -> Tensor:
        """(P, K+1, T) text embeddings as the tower gives them, "none" last."""
        if self.encoder is not None:
            return self.encoder(self.contexts)
        prompts, classes = self.num_prompts, len(self.ids)
        contexts = self.contexts.repeat_interleave(classes, 0)
        embeddings = self.tower.encode(self.ids.repeat(prompts, 1), contexts, self.start)
        return embeddings.unflatten(0, (prompts, classes))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.tower.apply(fn)
        return super()._apply(fn, recurse)


def _find_placeholders(tower: TextTower, ids: Tensor, length: int) -> int:
    """Where the placeholders start: behind a start token, or at once where the tokenizer has none."""
    # One placeholder more or fewer tells where they start and end: a first word can be another token than the next.
    counts = (0, length, length + 1)
    empty, placeholders, one_more = tower.tokenize([" ".join([PLACEHOLDER] * count) for count in counts])
    start = int((placeholders != empty).int().argmax())
    end = int((one_more != placeholders).int().argmax())
    if end - start != length or (ids[start:end] != placeholders[start:end]).any():
        raise ValueError(
            f"the tokenizer of '{tower.name}' does not read '{PLACEHOLDER}' as one token; pass ready embeddings with "
            "text_encoder='bank'"
        )
    return start
