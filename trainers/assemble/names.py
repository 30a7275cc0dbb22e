"""Other names for the model of a checkpoint: those that a user gives, and those of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mtaclip_plugin.text import check_class_names, fold_name
from mtaclip_plugin.text.bank import check_bank_shape
from trainers.data.batch import IGNORE_INDEX
from trainers.engine.vocabulary import Vocabulary
from trainers.foundation.errors import UserError, require
from trainers.models import has_text, is_mtaclip
from trainers.run.checkpoints import Checkpoint
from trainers.text.text_bank import ENCODER, embed_sentences


def rename(checkpoint: Checkpoint, names: Sequence[str], bank: Tensor | None = None) -> Vocabulary:
    """Other names for the model of a checkpoint, with their text where no tower reads them.

    Args:
        checkpoint: The model.
        names: The names, in the order of the label ids that they are to have.
        bank: Their text; ``None`` to make what is missing, if it is known how.

    Raises:
        UserError: The model does not know its classes by text, or the text of a name cannot be made.
        ValueError: A name is there twice, or is none; or the bank is not one of so many names.
        ModuleNotFoundError: The packages that the text is made with are not installed.
    """
    model, known = checkpoint.config.model, checkpoint.vocabulary
    if not has_text(model.arch, model.text_encoder):
        raise UserError(
            f"Other names, or other text, need a model that knows classes by text; this {model.arch} does not."
        )
    given = tuple(check_class_names(names, len(names)))
    require(len(given) > 1, f"'{given[0]}' alone is no list of names: name what is not '{given[0]}' too.")
    require(len(given) <= IGNORE_INDEX, f"{len(given)} names are too many: at most {IGNORE_INDEX} fit into a picture.")
    if bank is not None:
        check_bank_shape(bank.shape, len(given))
        return Vocabulary(given, bank=bank)
    if known.bank is None:
        return Vocabulary(given)
    present = {fold_name(name): name for name in known.class_names}
    new = [name for name in given if fold_name(name) not in present]
    if new and checkpoint.bank_encoder != ENCODER:
        made = "does not say what made it" if checkpoint.bank_encoder is None else f"is of {checkpoint.bank_encoder}"
        raise UserError(
            f"The text of this model is a bank of ready embeddings, which {made}, so it has none of '{new[0]}'; take "
            f"names that it has ({', '.join(known.class_names)}), or train with --model.text_encoder, or with a bank "
            "that python -m trainers.text.text_bank wrote."
        )
    if new:
        text = torch.cat([known.bank, embed_sentences(new).to(known.bank)])
        known = Vocabulary((*known.class_names, *new), bank=text)
    return Vocabulary(given, bank=known.text_of([present.get(fold_name(name), name) for name in given]))


def set_vocabulary(checkpoint: Checkpoint, names: Sequence[str], bank: Tensor | None = None) -> Vocabulary:
    """The classes of a data set by its own names, for the model of a checkpoint.

    Names that it was trained on are known by what it learned, others by their text. The latter are the unseen ones,
    where there are some of both.

    Args:
        checkpoint: The model.
        names: The data set's.
        bank: Their text; ``None`` to make what is missing, see `rename`.

    Raises:
        UserError: The model takes no names; or see `rename`.
        ValueError: See `rename`.
        ModuleNotFoundError: See `rename`.
    """
    model = checkpoint.config.model
    require(
        is_mtaclip(model.arch) or has_text(model.arch, model.text_encoder),
        f"Data sets are evaluated by names of their own, which this {model.arch} cannot take; leave out --data.sets.",
    )
    present = {fold_name(name): name for name in checkpoint.class_names}
    known = [present[name] for name in map(fold_name, names) if name in present]
    if bank is None and len(known) == len(names):
        return checkpoint.vocabulary.of(known)
    vocabulary = rename(checkpoint, names, bank)
    trained = {fold_name(name) for name in checkpoint.vocabulary.seen}
    untrained = tuple(name for name in vocabulary.class_names if fold_name(name) not in trained)
    return vocabulary if len(untrained) == len(names) else replace(vocabulary, unseen=untrained)
