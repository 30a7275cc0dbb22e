"""A frozen open_clip text tower that takes learned vectors in place of some of its token embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import open_clip
import torch
from open_clip.hf_model import ClsPooler
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mtaclip_plugin.text.clip import check_tokenizer, create_clip, one_sentence_on_failure
from mtaclip_plugin.text.fixed import Move, keeping_values

PLACEHOLDER = "the"
"""A word of one token in every vocabulary, letters are not (T5's "a"); its embeddings are replaced by the contexts."""


class TextTower:
    """An open_clip model's text side, frozen and always in eval mode.

    It is no ``nn.Module`` on purpose: its owner's parameters, state dict and train mode are what is trained and
    saved, and the tower is neither. It is rebuilt from its name and tag.

    Args:
        name: open_clip model name, or ``hf-hub:...`` or ``local-dir:...``.
        pretrained: open_clip tag or a file of weights; ``None`` draws random weights, the same ones everywhere.

    Attributes:
        visual: the model's image side, which this side never runs, for its owner to take away.

    Raises:
        ValueError: for an unknown name or tag, a file that holds no weights of this model, or a tokenizer that is code.
        ConnectionError: if weights or tokenizer could not be fetched.
    """

    def __init__(self, name: str, pretrained: str | None) -> None:
        model = create_clip(name, pretrained)
        check_tokenizer(name)
        with one_sentence_on_failure(name, pretrained):
            self.tokenizer = open_clip.get_tokenizer(name)
        self.visual: nn.Module | None = model.visual
        model.visual = None
        self.name = name
        self.model: Any = model.eval().requires_grad_(False)
        self.context_length: int = self.tokenizer.context_length or model.context_length
        self._contexts = _Contexts()
        self.token_embedding.register_forward_hook(self._contexts)
        pooler: Any = getattr(self.text, "pooler", None)
        if type(pooler) is ClsPooler:
            self.text.pooler = _ClsPooler(pooler.use_pooler_output)

    @property
    def text(self) -> Any:
        """The text side: a module of its own, or the model itself where open_clip builds that flat."""
        return getattr(self.model, "text", self.model)

    @property
    def token_embedding(self) -> Any:
        """The module that turns ids (N, S) into token embeddings (N, S, width)."""
        if hasattr(self.text, "token_embedding"):
            return self.text.token_embedding
        return self.text.transformer.get_input_embeddings()

    @property
    def width(self) -> int:
        """Size of a token embedding."""
        return int(self.token_embedding.weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return self.token_embedding.weight.device

    def move(self, move: Move) -> None:
        """Moves to another device or dtype as an ``nn.Module`` does, but keeps the weights: no checkpoint has them."""
        self.model._apply(keeping_values(move))

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (N, S), padded or cut to the tower's context length, where the tower is."""
        return self._ids(texts, self.context_length).to(self.device)

    def fits(self, texts: Sequence[str]) -> Tensor:
        """(N) bool, whether the tower reads a text whole: with room for one more token, one more word is read."""
        with_one_more = [f"{text} {PLACEHOLDER}" for text in texts]
        ids = self._ids([*texts, *with_one_more], self.context_length + 1)
        return (ids[: len(texts)] != ids[len(texts) :]).any(1)

    def _ids(self, texts: Sequence[str], length: int) -> Tensor:
        with torch.device("cpu"):  # on the default device some tokenizers' ids would be, others' not
            return self.tokenizer(list(texts), context_length=length)

    def encode(self, ids: Tensor, contexts: Tensor, start: int) -> Tensor:
        """The tower's own ``encode_text`` with ``contexts`` in place of the placeholders' embeddings.

        Args:
            ids: (N, S) token ids.
            contexts: (N, L, width) vectors.
            start: position of the first placeholder.

        Returns:
            (N, T) text embeddings as the tower gives them, not normalised.
        """
        self._contexts.tensor, self._contexts.start = contexts, start
        try:
            with _attention_on(contexts.device):
                return self.model.encode_text(ids, normalize=False)
        finally:
            self._contexts.tensor = None


class _ClsPooler(ClsPooler):
    """The same pooler by another name, to which open_clip gives all tokens, as to the other poolers.

    To a ``ClsPooler`` itself it gives beside the pooled token all others, chosen by a mask. ``encode_text`` drops them,
    but a GPU is waited for on the way, and a compiler does not know their number.
    """


class _Contexts:
    """A hook on a token embedding that puts contexts in, where there are any.

    It stays: a compiler can go through a hook, but not add one. And it does not know the tower, which would otherwise
    keep itself in memory.

    Attributes:
        tensor: (N, L, width) vectors; ``None`` outside of ``TextTower.encode``.
        start: position of the first one.
    """

    tensor: Tensor | None = None
    start = 0

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        """(N, S, width) embeddings with the contexts in place of the placeholders' own."""
        if self.tensor is None:
            return embedded
        end = self.start + self.tensor.shape[1]
        return torch.cat([embedded[:, : self.start], self.tensor.to(embedded.dtype), embedded[:, end:]], 1)


def _attention_on(device: torch.device) -> AbstractContextManager[None]:
    # On CPUs the backward pass of torch's fused attention is twelve times slower in bfloat16 than in float32 at a
    # prompt's 16 tokens; made of matrix products it is as fast, and so few tokens have small attention weights.
    if device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
