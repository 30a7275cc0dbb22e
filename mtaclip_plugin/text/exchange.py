"""Prompts and banks for another class list, made of those in use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtaclip_plugin.text.bank import EmbeddingBank
from mtaclip_plugin.text.prompts import PromptLearner


def prompts_for(learner: PromptLearner, class_names: Sequence[str]) -> PromptLearner:
    """The same tower and contexts before other class names; the contexts are the very same parameter."""
    contexts = learner.contexts
    with contexts.device:  # the new prompts' ids must be where the tower is
        prompts = PromptLearner(
            learner.tower,
            class_names,
            num_prompts=len(contexts),
            context_length=contexts.shape[1],
            shared_prefix=learner.encoder is not None,
        )
    prompts.contexts = contexts
    return prompts


def bank_of(embeddings: Tensor, current: Tensor) -> EmbeddingBank:
    """A bank to take the place of what gives the current text embeddings.

    Args:
        embeddings: (P, K'+1, T), or (K', T) to be repeated for each prompt, with the current "none".
        current: (P, K+1, T), "none" last.

    Returns:
        A bank of the current embeddings' device and dtype; "none" is learned if P is 1 and ``embeddings`` lack it.
    """
    none = current[:, -1:]
    if embeddings.ndim == 2 and len(current) > 1:
        embeddings = torch.cat([embeddings.to(current).expand(len(current), -1, -1), none], 1)
    bank = EmbeddingBank(embeddings.shape).to(current)
    with torch.no_grad():
        bank.embeddings.copy_(embeddings)
        if bank.none_embedding is not None:
            bank.none_embedding.copy_(none[0])
    return bank
