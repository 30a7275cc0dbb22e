"""What can be exchanged in a finished model: its class list, and where the text embeddings come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from mtaclip_plugin.arguments import check_positive
from mtaclip_plugin.decoder import select_classes
from mtaclip_plugin.model.scoring import ScoringModel
from mtaclip_plugin.text import (
    NONE_NAME,
    EmbeddingBank,
    PromptLearner,
    check_class_names,
    fold_name,
    load_embeddings,
    names_as_saved,
)
from mtaclip_plugin.text.bank import check_bank_shape
from mtaclip_plugin.text.exchange import bank_of, prompts_for


class NamedModel(ScoringModel):
    """A model whose classes are names with text embeddings, both of which can be exchanged.

    Each exchange rewrites ``config``, so that the model saves and loads as it then is, and may put new parameters in
    the place of old ones: make optimizers, and wrappers such as ``DistributedDataParallel``, anew after it.

    Attributes:
        class_names: K names; ``None`` if the model was built without any.
        untrained_names: the names that the class head was never trained on. While there are any, evaluation
            classifies by text, alone or ``"per_name"``.
    """

    def set_class_names(self, names: Sequence[str], *, trained: bool = False) -> None:
        """Exchanges the class list, for other names or another number of them.

        Kept names and "none" keep their rows of the class head, new ones get rows initialised anew; contexts stay. Of
        the mask queries the first K follow the names, as ``MTACLIPLoss(assignment="by_class")`` has them: a kept
        name's query goes where the name goes, those of names that leave, then spare ones, fill the places of new
        names. To the assignment "hungarian" the order of queries means nothing. Names are kept whose letters differ
        in case or whose white space differs.
        Names that were there when the model was built count as trained, names that come later do not until they are
        passed with ``trained=True``: up to then evaluation classifies by text alone. Training mode, where the class
        head must learn them, follows ``classification``.

        Args:
            names: names in the order of the label ids. A bank, and a model with a position for each text token, take
                only names of the present list.
            trained: whether the class head is trained, or is going to be, on all of these names. After training,
                ``model.set_class_names(model.class_names, trained=True)`` says so and changes nothing else.

        Raises:
            ValueError: if the names are unusable, or some are new where nothing could tell them apart.
        """
        names, new = self._compare(names)
        if isinstance(self.prompts, EmbeddingBank) and new:
            raise ValueError(f"the bank has no embedding of '{new[0]}'; pass it with set_text_embeddings(bank, names)")
        if self.prompts is None and new and not trained:
            raise ValueError(
                f"without text the model can not classify '{new[0]}' before it is trained on it; pass trained=True if "
                "it is going to be"
            )
        if isinstance(self.prompts, PromptLearner):
            self.prompts = prompts_for(self.prompts, names)
        elif isinstance(self.prompts, EmbeddingBank):
            rows = [row for row in self._rows(names) if row is not None]
            bank = self.prompts.embeddings  # (K, T) has no row of "none"
            self.prompts.embeddings = bank[rows[:-1]] if bank.ndim == 2 else bank[:, rows]
        self._exchange_classes(names, trained=trained)

    def set_text_embeddings(
        self, source: Tensor | np.ndarray | str | Path, class_names: Sequence[str] | None = None
    ) -> None:
        """Puts ready text embeddings in the place of the tower with its contexts, or of the present bank.

        Only those of the CLIP model, and of the magnitude, that the decoder was trained with mean anything to it.

        Args:
            source: a tensor, an array, or a ``.npy`` or ``.safetensors`` file, of shape (P, K+1, T) with "none" last,
                or (K, T), which is used for each of the P prompts; "none" then keeps its embedding.
            class_names: their K names, if other than the present ones; see ``set_class_names``.

        Raises:
            ValueError: if the model was built without text, or the embeddings suit neither it nor the names.
            FileNotFoundError: if there is no such file.
        """
        if self.prompts is None:
            raise ValueError("the model was built without text; build it with text_encoder='bank'")
        names, _ = self._compare(self.class_names if class_names is None else class_names)
        embeddings = load_embeddings(source)
        shape = check_bank_shape(embeddings.shape, len(names))
        num_prompts, text_channels = self.prompts.num_prompts, self.prompts.text_channels
        if shape[-1] != text_channels:
            raise ValueError(f"the text embeddings have T={shape[-1]} numbers each, the model takes T={text_channels}")
        if len(shape) == 3 and shape[0] != num_prompts:
            raise ValueError(
                f"the text embeddings are of P={shape[0]} prompts, the model takes P={num_prompts}, or (K, T) for all"
            )
        self.prompts = bank_of(embeddings, self.prompts.encoded())
        self._exchange_classes(names)

    def bake_text(self) -> None:
        """Drops the tower and its contexts, and keeps their embeddings as a bank; evaluation stays as it is.

        The model then runs, saves and loads without the tower's weights. A model with a bank stays as it is.

        Raises:
            ValueError: if the model was built without text.
        """
        if self.prompts is None:
            raise ValueError("the model was built without text: there is none to bake")
        self._check_unwrapped()
        if isinstance(self.prompts, PromptLearner):
            text = self.prompts.encoded()
            self.prompts = bank_of(text, text)
            self._write_config()

    @classmethod
    def _from_pretrained(cls, **options: Any) -> Self:
        with names_as_saved():
            return super()._from_pretrained(**options)

    def _check_unwrapped(self) -> None:
        if not isinstance(self.prompts, PromptLearner | EmbeddingBank | None):
            raise ValueError("peft has wrapped the prompts: exchange names and text after merge_and_unload()")

    def _compare(self, names: Sequence[str] | None) -> tuple[list[str], list[str]]:
        """The names, checked, and those of them that are not in the present list."""
        self._check_unwrapped()
        if self.class_names is None:
            raise ValueError("the model's classes have no names to compare with; build it with class_names=[...]")
        if not isinstance(names, str):
            check_positive(classes=len(names or ()))
        checked = check_class_names(names, len(names or ()))
        new = [name for name, row in zip(checked, self._rows(checked), strict=False) if row is None]
        if new and self.prompts is not None and self.config["text_positions"] == "token":
            raise ValueError(
                f"text_positions='token' has a position for each text token of the old class list, none for '{new[0]}';"
                " only text_positions='prompt' takes new names"
            )
        return checked, new

    def _rows(self, names: Sequence[str]) -> list[int | None]:
        """Where the rows of the new list, "none" last, are in the present one; ``None`` for new names."""
        present = {name: row for row, name in enumerate((*(self.class_names or ()), NONE_NAME))}
        index = {fold_name(name): row for name, row in present.items()} | present
        return [index.get(name, index.get(fold_name(name))) for name in (*names, NONE_NAME)]

    def _exchange_classes(self, names: list[str], *, trained: bool = False) -> None:
        """Brings all but ``prompts`` to the new list."""
        known = {fold_name(name) for name in self.class_names or () if name not in self.untrained_names}
        if names != self.class_names:
            positions_of = None
            if self.prompts is not None and self.config["text_positions"] == "token":
                positions_of = self.prompts.num_prompts
            select_classes(self.decoder.mask_text_decoder, self._rows(names), positions_of=positions_of)
        self.untrained_names = () if trained else tuple(name for name in names if fold_name(name) not in known)
        self.class_names = names
        self._score_untrained()
        self._write_config()
        self._prepare_evaluation()

    def _write_config(self) -> None:
        assert self.class_names is not None
        self.config.update(
            classes=len(self.class_names),
            class_names=self.class_names,
            untrained_names=list(self.untrained_names) or None,
        )
        if isinstance(self.prompts, EmbeddingBank):
            # A checkpoint holds the values, so the configuration needs no more than their shape.
            shape = list(self.prompts.embeddings.shape)
            name, pretrained = self.config["text_encoder"], self.config["text_pretrained"]
            if name != "bank" and self.config["encoder_name"] == "clip":
                # The name that "clip" stood for goes with the tower; its weights are in the checkpoint.
                self.config.update(encoder_name=f"clip:{name}", encoder_weights=None)
            if name != "bank" and self.config["clip_masks"] is not None:
                self.config.update(clip_masks_tower=name, clip_masks_pretrained=pretrained)
            self.config.update(text_encoder="bank", text_pretrained=None, text_embeddings=None, bank_shape=shape)
