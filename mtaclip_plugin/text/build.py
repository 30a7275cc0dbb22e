"""Where the text of a model comes from, by its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from mtaclip_plugin.text.bank import EmbeddingBank, build_bank
from mtaclip_plugin.text.prompts import PromptLearner
from mtaclip_plugin.text.tower import TextTower


@dataclass(frozen=True)
class TextSource:
    """What gives the text embeddings, and what came along.

    Attributes:
        prompts: learned prompts through a tower, or a bank; ``None`` without text.
        visual: the image tower of the same open_clip model, for an encoder made of it.
    """

    prompts: PromptLearner | EmbeddingBank | None
    visual: nn.Module | None = None


def build_text(
    text_encoder: str | None,
    text_pretrained: str | None,
    *,
    class_names: Sequence[str],
    num_prompts: int,
    context_length: int,
    text_embeddings: Tensor | np.ndarray | str | Path | None,
    bank_shape: Sequence[int] | None,
) -> TextSource:
    """Builds the bank or the tower with its prompts.

    Args:
        text_encoder: name of an open_clip model, ``"bank"``, or ``None`` for no text.
        text_pretrained: open_clip tag or file of weights; ``None`` for random ones.
        class_names: K names.
        num_prompts: contexts P.
        context_length: learned tokens L of a context.
        text_embeddings: the bank, or its file.
        bank_shape: the bank's shape where a checkpoint brings its values.

    Raises:
        ValueError: for arguments that do not fit together.
        FileNotFoundError: if there is no such file of text embeddings.
        ConnectionError: if pretrained weights could not be fetched.
    """
    if text_encoder == "bank":
        return TextSource(build_bank(text_embeddings, bank_shape, len(class_names)))
    if text_embeddings is not None:
        raise ValueError(f"text_embeddings need text_encoder='bank', got text_encoder={text_encoder!r}")
    if text_encoder is None:
        return TextSource(None)
    tower = TextTower(text_encoder, text_pretrained)
    visual, tower.visual = tower.visual, None
    prompts = PromptLearner(tower, class_names, num_prompts=num_prompts, context_length=context_length)
    return TextSource(prompts, visual)
