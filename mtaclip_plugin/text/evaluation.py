"""The text embeddings that a model evaluates with: those of what it holds at that moment."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, Self

import torch
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
    _warned = False

    @property
    def text_embeddings(self) -> Tensor | None:
        """(P, K+1, T), what evaluation uses; ``None`` without text."""
        return None if self.prompts is None else self.prompts.encoded().detach()

    def train(self, mode: bool = True) -> Self:
        """Switches the mode; on the way to evaluation the prompts are encoded, for graphs that are made of it."""
        super().train(mode)
        if not mode:
            self._prepare_evaluation()
        return self

    def _current_text(self) -> Tensor | None:
        """(P, K+1, T) text embeddings: in training with a gradient, in evaluation from the tower's last run."""
        if self.prompts is None:
            return None
        if self.training:
            return self.prompts()
        self._warn_if_prompts_would_learn()
        return self.prompts.encoded()

    def _warn_if_prompts_would_learn(self) -> None:
        if self._warned or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        contexts = getattr(self.prompts, "contexts", None)  # a bank has none
        if contexts is not None and contexts.requires_grad:
            self._warned = True
            _warn_caller(
                "in evaluation mode the prompts learn nothing, but gradients are on: call model.train() before "
                "training (smp.from_pretrained gives evaluation mode, Lightning's fit keeps it), or evaluate under "
                "torch.no_grad()"
            )

    def _prepare_evaluation(self) -> None:
        if self.prompts is not None:
            self.prompts.encoded()

    def _prepare_after_loading(self) -> None:
        self.register_load_state_dict_post_hook(_prepare_in_evaluation)


def _warn_caller(message: str) -> None:
    """Warns at the line, outside of this library and of torch, that called the model."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("mtaclip_plugin", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _prepare_in_evaluation(model: TextHolder, incompatible_keys: Any) -> None:
    """A hook, so that it is also called where the model is part of another module."""
    if not model.training:
        model._prepare_evaluation()
