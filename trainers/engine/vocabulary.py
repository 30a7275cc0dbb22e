"""The names of a dataset's classes with their text, for a model that was trained on all of them or on some."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The names that a model is evaluated with, and where their text comes from.

    Attributes:
        class_names: K names in the order of the label ids.
        unseen: those of them that the model is not trained on, in the same order.
        bank: text embeddings (K, T), or (P, K+1, T) with "none" last; ``None`` where a tower reads the names, or where
            there is no text.
        bank_encoder: what made the bank, as its file says; ``None`` where it does not.
    """

    class_names: tuple[str, ...]
    unseen: tuple[str, ...] = ()
    bank: Tensor | None = None
    bank_encoder: str | None = None

    @property
    def seen(self) -> tuple[str, ...]:
        """The names that the model is trained on."""
        return tuple(name for name in self.class_names if name not in self.unseen)

    @property
    def unseen_ids(self) -> tuple[int, ...]:
        """The label ids of the unseen classes."""
        return tuple(self.class_names.index(name) for name in self.unseen)

    def text_of(self, names: Sequence[str]) -> Tensor | None:
        """The bank of some of the names: (K', T), or (P, K'+1, T) with "none" last; ``None`` without a bank."""
        if self.bank is None:
            return None
        rows = [self.class_names.index(name) for name in names]
        return self.bank[rows] if self.bank.ndim == 2 else self.bank[:, [*rows, -1]]

    def of(self, names: Sequence[str]) -> Vocabulary:
        """The part of it that one of several data sets has: these names, in this order."""
        if self.class_names == tuple(names):
            return self
        unseen = tuple(name for name in names if name in self.unseen)
        return Vocabulary(tuple(names), unseen, self.text_of(names), self.bank_encoder)

    def names(self, model: SegmentationModel) -> bool:
        """Whether a model that knows its classes by names knows them by these; one that knows no names is right."""
        known = getattr(model, "class_names", None)
        return known is None or tuple(known) == self.class_names

    def set_names(self, model: SegmentationModel, names: Sequence[str]) -> None:
        """Lets a model know classes by these names of the vocabulary, and by no others.

        Raises:
            ValueError: The model cannot take them.
        """
        text = self.text_of(names)
        device = next(model.parameters()).device
        # New rows of the class head are drawn, though none is read before it is trained: nothing may depend on them.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if text is None:
                model.set_class_names(names)
            else:
                model.set_text_embeddings(text, names)

    def named(self, model: SegmentationModel, names: Sequence[str]) -> SegmentationModel:
        """A copy of a model, in evaluation, that knows classes by these names; the one given stays as it is.

        What knows nothing of names, and is most of a model, is not copied: the weights of the encoder, and towers.

        Raises:
            ValueError: The model cannot take the names.
        """
        # Towers are frozen, and neither parameters nor buffers.
        towers = (getattr(model.prompts, "tower", None), getattr(model, "_clip_masks", None))
        shared = {id(one): one for one in chain(model.encoder.parameters(), model.encoder.buffers(), towers)}
        twin = copy.deepcopy(model, shared).eval()
        self.set_names(twin, names)
        return twin
