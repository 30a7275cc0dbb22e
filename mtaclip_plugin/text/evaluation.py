"""The text embeddings that a model evaluates with: those of what it holds at that moment."""

from __future__ import annotations

from typing import Any, Self

from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor

from mtaclip_plugin.text.bank import EmbeddingBank
from mtaclip_plugin.text.prompts import PromptLearner


class TextHolder(SegmentationModel):
    """A model that encodes its prompts at each training step, and in evaluation where they have changed.

    Attributes:
        prompts: where text embeddings come from; ``None`` without text.
    """

    prompts: PromptLearner | EmbeddingBank | None

    @property
    def text_embeddings(self) -> Tensor | None:
        """(P, K+1, T), what evaluation uses; ``None`` without text."""
        return None if self.prompts is None else self.prompts.encoded().detach()

    def train(self, mode: bool = True) -> Self:
        """Switches the mode; on the way to evaluation the prompts are encoded, for graphs that are made of it."""
        super().train(mode)
        if not mode:
            self._encode_prompts()
        return self

    def _current_text(self) -> Tensor | None:
        """(P, K+1, T) text embeddings: in training with a gradient, in evaluation from the tower's last run."""
        if self.prompts is None:
            return None
        return self.prompts() if self.training else self.prompts.encoded()

    def _encode_prompts(self) -> None:
        if self.prompts is not None:
            self.prompts.encoded()

    def _encode_after_loading(self) -> None:
        self.register_load_state_dict_post_hook(_encode_in_evaluation)


def _encode_in_evaluation(model: TextHolder, incompatible_keys: Any) -> None:
    """A hook, so that it is also called where the model is part of another module."""
    if not model.training:
        model._encode_prompts()
