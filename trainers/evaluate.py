"""Evaluates a checkpoint: ``python -m trainers.evaluate --checkpoint FILE``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ignite.handlers import ProgressBar
from jsonargparse import ArgumentParser
from torch.utils.data import DataLoader

from mtaclip_plugin import MTACLIP
from mtaclip_plugin.inference import Classification
from mtaclip_plugin.text import load_embeddings
from trainers.assemble import create_dataset, create_forward, rename, restore_model, set_scoring
from trainers.data.batch import Batch
from trainers.data.check import print_remarks, usable_samples
from trainers.data.loaders import create_eval_loader
from trainers.engine.calibration import Candidate, search_calibration
from trainers.engine.engines import Evaluator
from trainers.engine.forward import Forward
from trainers.engine.vocabulary import Vocabulary
from trainers.foundation.errors import UserError, main_guard, user_errors
from trainers.foundation.names import listed_names
from trainers.options.help_format import CommandLineHelp
from trainers.options.overrides import EVAL_OPTIONS, SCORING_OPTIONS, add_overrides, given_options, overridden
from trainers.report.calibration import format_search, search_to_dict
from trainers.run.checkpoints import Checkpoint, load_checkpoint
from trainers.run.validation import evaluate_model
from trainers.scores.metrics import SegmentationScores, format_scores

OVERRIDES = ("data.max_pixels", *EVAL_OPTIONS)
"""Options of the training that may be others here."""


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

    def scores(self) -> SegmentationScores:
        """Scores of the model on the images.

        Raises:
            UserError: An image or a label map cannot be read.
        """
        evaluator = Evaluator(self.forward, self.vocabulary)
        ProgressBar(desc="evaluate").attach(evaluator)
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
        if data.on_error == "stop":
            print_remarks(dataset)
        else:
            dataset = usable_samples(dataset, split=split or data.val_split, num_workers=data.num_workers)
        model, vocabulary = restore_model(checkpoint), checkpoint.vocabulary
        if names is not None or text_embeddings is not None:
            vocabulary = _other_text(checkpoint, names, text_embeddings)
            vocabulary.set_names(model, vocabulary.class_names)
        set_scoring(model, scoring or {})
        train = replace(config.train, device=device)
        forward = create_forward(model, replace(config, train=train))
        loader = create_eval_loader(dataset, batch_size=config.train.batch_size, num_workers=config.data.num_workers)
    return Evaluation(forward, vocabulary, loader)


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


def evaluate(
    checkpoint: Checkpoint,
    *,
    root: str | None,
    split: str | None,
    device: str,
    classification: Classification | None = None,
) -> SegmentationScores:
    """Scores of a checkpoint on a split of its dataset.

    Args:
        checkpoint: See `prepare`.
        root: See `prepare`.
        split: See `prepare`.
        device: See `prepare`.
        classification: What names the masks of an "mtaclip"; ``None`` for what it was trained with.

    Raises:
        UserError: See `prepare`.
    """
    scoring = {} if classification is None else {"classification": classification}
    return prepare(checkpoint, root=root, split=split, device=device, scoring=scoring).scores()


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), prints the table of classes and writes it as JSON."""
    parser = ArgumentParser(
        prog="python -m trainers.evaluate",
        usage="python -m trainers.evaluate --checkpoint FILE [--OPTION VALUE ...]",
        description="Prints IoU, boundary IoU and boundary F-score of each class and in the mean, frequency-weighted "
        "IoU and pixel accuracy of a checkpoint, and writes them as JSON.",
        formatter_class=CommandLineHelp,
        exit_on_error=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="A best.pt or last.pt.")
    add("--data.root", type=str | None, help="Folder of the data; null: that of the training.")
    add("--data.split", type=str | None, help="Name of the split; null: the validation split.")
    add("--output", type=Path | None, help="JSON file; null: beside the checkpoint.")
    add("--device", type=str, default="auto", help="cpu, cuda, cuda:1, ... or auto.")
    add("--names", type=str | None, help="Other names of the classes in their order, 'a,b,...', or a file of them.")
    add("--text_embeddings", type=Path | None, help="File of other text for the same classes.")
    add(
        "--search_calibration",
        type=bool,
        default=False,
        help="Search for what names unseen classes best, in place of the scores; choose on validation images.",
    )
    add_overrides(parser, [*OVERRIDES, *SCORING_OPTIONS], aliases={"model.classification": "--classification"})
    options = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))

    checkpoint = load_checkpoint(options.checkpoint)
    config = overridden(checkpoint.config, options, OVERRIDES)
    scoring = given_options(options, SCORING_OPTIONS)
    split = options.data.split or config.data.val_split
    with user_errors():
        names = None if options.names is None else listed_names(options.names)
    prepared = prepare(
        replace(checkpoint, config=config),
        root=options.data.root,
        split=split,
        device=options.device,
        scoring=scoring,
        names=names,
        text_embeddings=options.text_embeddings,
    )
    class_names = prepared.vocabulary.class_names
    if options.search_calibration:
        kind, candidates = "calibration", prepared.search()
        table, result = format_search(candidates), search_to_dict(candidates)
    else:
        kind, scores = "scores", prepared.scores()
        table, result = format_scores(scores, class_names), scores.to_dict(class_names)
    print(table)
    suffix = "_calibration" * options.search_calibration
    output = options.output or options.checkpoint.with_name(f"{options.checkpoint.stem}_{split}{suffix}.json")
    report = {
        "checkpoint": str(options.checkpoint),
        "iteration": checkpoint.iteration,
        "split": split,
        "classification": scoring.get("classification"),
        "scoring": scoring,
        "names": names,
        "text_embeddings": None if options.text_embeddings is None else str(options.text_embeddings),
        "eval": asdict(config.eval),
    }
    with user_errors():
        output.write_text(json.dumps(report | result, indent=2) + "\n", encoding="utf-8")
    print(f"\n{kind.capitalize()}: {output}")


if __name__ == "__main__":
    main()
