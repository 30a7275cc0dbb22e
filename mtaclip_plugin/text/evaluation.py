"""The text embeddings that a model evaluates with: always there, and made anew when what they are made of changed."""

from __future__ import annotations

from itertools import chain
from typing import Any, Self

import torch
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor

from mtaclip_plugin.text.bank import EmbeddingBank
from mtaclip_plugin.text.prompts import PromptLearner


class TextHolder(SegmentationModel):
    """A model that encodes its prompts at each training step, and once for all evaluations that follow.

    Attributes:
        prompts: where text embeddings come from; ``None`` without text.
        text_embeddings: (P, K+1, T), what evaluation uses; ``None`` without text.
    """

    prompts: PromptLearner | EmbeddingBank | None
    text_embeddings: Tensor | None

    def train(self, mode: bool = True) -> Self:
        """Switches the mode; on the way to evaluation the text embeddings are brought up to date."""
        super().train(mode)
        if not mode:
            self._refresh_text_embeddings()
        return self

    def _hold_text(self, classes: int) -> None:
        """Makes the buffer that evaluation uses: always there, so that the forward pass is pure."""
        embeddings = None
        if self.prompts is not None:
            embeddings = torch.zeros(self.prompts.num_prompts, classes + 1, self.prompts.text_channels)
        self.register_buffer("text_embeddings", embeddings, persistent=False)
        self._text_source: list[Tensor] = []
        self.register_load_state_dict_post_hook(_refresh_after_loading)

    def _current_text(self) -> Tensor | None:
        """(P, K+1, T) text embeddings: made by the tower in training, kept from the last ``eval()`` otherwise."""
        if self.training and self.prompts is not None:
            return self.prompts()
        return self.text_embeddings

    def _refresh_text_embeddings(self) -> None:
        """Encodes the prompts anew if what they are made of has changed since it was last done."""
        if self.prompts is None or self.text_embeddings is None:
            return
        # Values, not versions: fused optimizers and changes of .data leave no trace in those.
        source = [tensor.detach() for tensor in chain(self.prompts.parameters(), self.prompts.buffers())]
        if len(source) == len(self._text_source) and all(map(_equal, source, self._text_source)):
            return
        # smp's predict() comes here inside inference mode, whose tensors could not be trained on afterwards.
        device = self.text_embeddings.device
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            self.text_embeddings = self.prompts().clone()
            self._text_source = [tensor.clone() for tensor in source]

    def _evaluation_text(self) -> Tensor:
        """(P, K+1, T) text embeddings that evaluation uses, or would use if ``eval()`` were called."""
        if self.training:
            self._refresh_text_embeddings()
        assert self.text_embeddings is not None
        return self.text_embeddings


def _equal(tensor: Tensor, other: Tensor) -> bool:
    alike = tensor.device == other.device and tensor.dtype == other.dtype
    return alike and tensor.device.type != "meta" and torch.equal(tensor, other)


def _refresh_after_loading(model: TextHolder, incompatible_keys: Any) -> None:
    """A hook, so that it is also called where the model is part of another module."""
    if not model.training:
        model._refresh_text_embeddings()
