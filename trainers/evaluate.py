"""Evaluates a checkpoint: ``python -m trainers.evaluate --checkpoint FILE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ignite.handlers import ProgressBar
from jsonargparse import ArgumentParser
from segmentation_models_pytorch.base import SegmentationModel

from mtaclip_plugin import MTACLIP
from mtaclip_plugin.inference import Classification
from trainers.assemble import create_dataset, create_forward, restore_model
from trainers.data.check import usable_samples
from trainers.data.loaders import create_eval_loader
from trainers.engine.engines import create_evaluator
from trainers.foundation.errors import UserError, main_guard, user_errors
from trainers.options.help_format import CommandLineHelp
from trainers.options.overrides import EVAL_OPTIONS, add_overrides, overridden
from trainers.run.checkpoints import Checkpoint, load_checkpoint
from trainers.run.validation import evaluate_model
from trainers.scores.metrics import SegmentationScores, format_scores

OVERRIDES = ("data.max_pixels", *EVAL_OPTIONS)
"""Options of the training that may be others here."""


def evaluate(
    checkpoint: Checkpoint,
    *,
    root: str | None,
    split: str | None,
    device: str,
    classification: Classification | None = None,
    text_embeddings: Path | None = None,
) -> SegmentationScores:
    """Scores of a checkpoint on a split of its dataset.

    Args:
        checkpoint: The model, and the dataset that it was trained on.
        root: Another folder of the dataset; ``None`` for the one of the training.
        split: Another split; ``None`` for the validation split of the training.
        device: Where the model runs.
        classification: What names the masks of an "mtaclip"; ``None`` for what it was trained with.
        text_embeddings: File of other text for the same classes; ``None`` for the text of the training.

    Raises:
        UserError: The dataset is not there, cannot be read, or has other classes; the text does not fit the model.
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
        if data.on_error == "skip":
            dataset = usable_samples(dataset, split=split or data.val_split, num_workers=data.num_workers)
        model = restore_model(checkpoint)
        if text_embeddings is not None:
            _text_guided(model, "--text_embeddings").set_text_embeddings(text_embeddings)
        if classification is not None:
            _text_guided(model, "--classification").classification = classification
        train = replace(config.train, device=device)
        forward = create_forward(model, replace(config, train=train))
        loader = create_eval_loader(dataset, batch_size=config.train.batch_size, num_workers=config.data.num_workers)
    evaluator = create_evaluator(forward, num_classes=len(checkpoint.class_names))
    ProgressBar(desc="evaluate").attach(evaluator)
    return evaluate_model(evaluator, loader)


def _text_guided(model: SegmentationModel, option: str) -> MTACLIP:
    if not isinstance(model, MTACLIP) or model.prompts is None:
        raise UserError(f'{option} is for an "mtaclip" with text; leave it out, or evaluate a checkpoint of one.')
    return model


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
    parser.add_argument("--checkpoint", type=Path, required=True, help="A best.pt or last.pt.")
    parser.add_argument("--data.root", type=str | None, help="Folder of the data; null: that of the training.")
    parser.add_argument("--data.split", type=str | None, help="Name of the split; null: the validation split.")
    parser.add_argument("--output", type=Path | None, help="JSON file; null: beside the checkpoint.")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, ... or auto.")
    parser.add_argument("--classification", type=Classification | None, help="What names the masks; null: as trained.")
    parser.add_argument("--text_embeddings", type=Path | None, help="File of other text for the same classes.")
    add_overrides(parser, OVERRIDES)
    options = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))

    checkpoint = load_checkpoint(options.checkpoint)
    checkpoint = replace(checkpoint, config=overridden(checkpoint.config, options, OVERRIDES))
    split = options.data.split or checkpoint.config.data.val_split
    scores = evaluate(
        checkpoint,
        root=options.data.root,
        split=split,
        device=options.device,
        classification=options.classification,
        text_embeddings=options.text_embeddings,
    )
    print(format_scores(scores, checkpoint.class_names))
    output = options.output or options.checkpoint.with_name(f"{options.checkpoint.stem}_{split}.json")
    report = {
        "checkpoint": str(options.checkpoint),
        "iteration": checkpoint.iteration,
        "split": split,
        "classification": options.classification,
        "text_embeddings": None if options.text_embeddings is None else str(options.text_embeddings),
        "eval": asdict(checkpoint.config.eval),
    }
    with user_errors():
        output.write_text(
            json.dumps(report | scores.to_dict(checkpoint.class_names), indent=2) + "\n", encoding="utf-8"
        )
    print(f"\nScores: {output}")


if __name__ == "__main__":
    main()
