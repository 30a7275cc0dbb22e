"""From a checkpoint to a model with the images that it is to be evaluated on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from mtaclip_plugin import MTACLIP
from mtaclip_plugin.text import load_embeddings
from trainers.assemble.datasets import create_dataset, create_set
from trainers.assemble.forward import create_forward
from trainers.assemble.models import restore_model, set_scoring
from trainers.assemble.names import rename, set_vocabulary
from trainers.data.batch import Batch, SegmentationDataset
from trainers.data.check import print_remarks, usable_samples
from trainers.data.loaders import create_eval_loader
from trainers.engine.calibration import Candidate, search_calibration
from trainers.engine.engines import Evaluator
from trainers.engine.forward import Forward
from trainers.engine.vocabulary import Vocabulary
from trainers.foundation.errors import UserError, user_errors
from trainers.foundation.progress import engine_progress
from trainers.options.data_config import DataConfig
from trainers.run.checkpoints import Checkpoint
from trainers.run.validation import evaluate_model
from trainers.scores.by_set import ONLY
from trainers.scores.metrics import SegmentationScores
from trainers.text.text_bank import load_text_bank


@dataclass(frozen=True)
class Evaluation:
    """A model with the images that it is to be evaluated on.

    Attributes:
        forward: The model, which knows all classes.
        vocabulary: The classes.
        loader: The images.
    """

    forward: Forward
    vocabulary: Vocabulary
    loader: DataLoader[Batch]

    def scores(self, name: str = ONLY) -> SegmentationScores:
        """Scores of the model on the images; ``name`` is what the progress bar calls them.

        Raises:
            UserError: An image or a label map cannot be read.
        """
        evaluator = Evaluator(self.forward, self.vocabulary)
        engine_progress(f"evaluate {name}".rstrip()).attach(evaluator)
        return evaluate_model(evaluator, self.loader)

    def search(self) -> list[Candidate]:
        """Ways of naming masks, the best first.

        Raises:
            UserError: There are no classes without training, or no images of them; or an image cannot be read.
        """
        model = self.forward.model
        if not isinstance(model, MTACLIP) or not self.vocabulary.unseen:
            raise UserError(
                '--search_calibration weighs trained classes against others: it is for an "mtaclip" that was trained '
                "with --data.unseen."
            )
        candidates = search_calibration(self.forward, model, self.loader, self.vocabulary.unseen_ids)
        if math.isnan(candidates[0].best.harmonic_mean_iou):
            raise UserError("The images show no unseen class, or nothing but such: there is nothing to search by.")
        return candidates


def prepare(
    checkpoint: Checkpoint,
    *,
    root: str | None,
    split: str | None,
    device: str,
    scoring: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    text_embeddings: Path | None = None,
) -> Evaluation:
    """The model of a checkpoint, with a split of its dataset.

    Args:
        checkpoint: The model, and the dataset that it was trained on.
        root: Another folder of the dataset; ``None`` for the one of the training.
        split: Another split; ``None`` for the validation split of the training.
        device: Where the model runs.
        scoring: What an "mtaclip" makes its scores of, where that is not as in training, see `set_scoring`.
        names: Other names for the same classes; ``None`` for those of the training.
        text_embeddings: File of other text for the same classes; ``None`` for the text of the training.

    Raises:
        UserError: The dataset is not there, cannot be read, or has other classes; or what is to differ from the
            training does not fit the model.
    """
    config = checkpoint.config
    with user_errors():
        data = replace(config.data, root=root or config.data.root)
        dataset = create_dataset(data, split or data.val_split)
        if tuple(dataset.class_names) != checkpoint.class_names:
            raise UserError(
                f"The checkpoint knows the classes {', '.join(checkpoint.class_names)}, the dataset has "
                f"{', '.join(dataset.class_names)}; evaluate it on a dataset with its own classes."
            )
        dataset = _usable(dataset, data, split or data.val_split)
        model, vocabulary = restore_model(checkpoint), checkpoint.vocabulary
        if names is not None or text_embeddings is not None:
            vocabulary = _other_text(checkpoint, names, text_embeddings)
            vocabulary.set_names(model, vocabulary.class_names)
        set_scoring(model, scoring or {})
        train = replace(config.train, device=device)
        forward = create_forward(model, replace(config, train=train))
        loader = create_eval_loader(
            dataset,
            batch_size=config.train.batch_size,
            num_workers=config.data.num_workers,
            pin_memory=forward.device.type == "cuda",
        )
    return Evaluation(forward, vocabulary, loader)


def prepare_sets(
    checkpoint: Checkpoint,
    data: DataConfig,
    *,
    only: str | None = None,
    split: str | None,
    device: str,
    scoring: Mapping[str, Any] | None = None,
    text_embeddings: Path | None = None,
) -> dict[str, Evaluation]:
    """The model of a checkpoint with data sets by their names, each of which it knows by the set's own classes.

    Args:
        checkpoint: The model; it need not have been trained on them.
        data: Says what the data sets are.
        only: The one that is wanted; ``None`` for all.
        split: See `prepare`.
        device: See `prepare`.
        scoring: See `prepare`.
        text_embeddings: File of their names' text, see `trainers.text.text_bank.load_text_bank`; ``None`` for the text
            of the training, and what can be added to it, see `trainers.assemble.rename`.

    Raises:
        UserError: See `prepare`; or there is no such data set, or no text of one of its names.
    """
    names = [one.name for one in data.joint_sets]
    if only is not None and only not in names:
        reason = (
            f"there are {', '.join(names)}" if names else "the model was trained on one alone: add --data.sets FILE"
        )
        raise UserError(f"--data.set {only} is none of the data sets; {reason}.")
    with user_errors():
        model = restore_model(checkpoint)
        set_scoring(model, scoring or {})
        train = replace(checkpoint.config.train, device=device)
        forward = create_forward(model, replace(checkpoint.config, train=train))
        evaluations = {}
        for one in data.joint_sets:
            if only in (None, one.name):
                dataset: SegmentationDataset = create_set(data, one, split or data.val_split)
                dataset = _usable(dataset, data, f"{split or data.val_split} of {one.name}")
                bank = None if text_embeddings is None else load_text_bank(text_embeddings, dataset.class_names)
                vocabulary = set_vocabulary(checkpoint, dataset.class_names, bank)
                loader = create_eval_loader(
                    dataset,
                    batch_size=train.batch_size,
                    num_workers=data.num_workers,
                    pin_memory=forward.device.type == "cuda",
                )
                own = forward.of(vocabulary.named(model, vocabulary.class_names))
                evaluations[one.name] = Evaluation(own, vocabulary, loader)
    return evaluations


def _usable(dataset: SegmentationDataset, data: DataConfig, split: str) -> SegmentationDataset:
    if data.on_error == "stop":
        print_remarks(dataset)
        return dataset
    return usable_samples(dataset, split=split, num_workers=data.num_workers)


def _other_text(checkpoint: Checkpoint, names: Sequence[str] | None, text_embeddings: Path | None) -> Vocabulary:
    """The classes of a checkpoint by other names, or with other text, or both."""
    count = len(checkpoint.class_names)
    if names is not None and len(names) != count:
        raise UserError(
            f"--names has {len(names)} names for the {count} classes of the dataset; give one for each, in the order "
            f"of {', '.join(checkpoint.class_names)}."
        )
    bank = None if text_embeddings is None else load_embeddings(text_embeddings)
    renamed = rename(checkpoint, checkpoint.class_names if names is None else names, bank)
    unseen = tuple(renamed.class_names[label] for label in checkpoint.vocabulary.unseen_ids)
    return replace(renamed, unseen=unseen)
