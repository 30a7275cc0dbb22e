"""Evaluates a checkpoint: ``python -m trainers.evaluate --checkpoint FILE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from mtaclip_plugin.inference import Classification
from trainers.assemble import Evaluation, prepare, prepare_sets
from trainers.foundation.errors import main_guard, require, user_errors
from trainers.foundation.launch import refuse_several_processes
from trainers.foundation.names import listed_names
from trainers.options.data_config import DataConfig
from trainers.options.help_format import CommandLineHelp
from trainers.options.overrides import EVAL_OPTIONS, SCORING_OPTIONS, add_overrides, given_options, overridden
from trainers.options.unknown import parse_options
from trainers.report.calibration import format_search, search_to_dict
from trainers.run.checkpoints import Checkpoint, load_checkpoint
from trainers.scores.by_set import ONLY, ScoresBySet, SetScores, format_sets, mean_scores, sets_to_dict
from trainers.scores.metrics import SegmentationScores

OVERRIDES = ("data.max_pixels", *EVAL_OPTIONS)
"""Options of the training that may be others here."""


def evaluated_data(trained: DataConfig, given: Namespace) -> DataConfig:
    """The data of an evaluation: those of the training, or other sets.

    Args:
        trained: The training's.
        given: The options ``root`` and ``sets``, each null unless it is to be other.

    Raises:
        UserError: The sets cannot be read, or have other bands than the training's.
    """
    if given.sets is None:
        return replace(trained, root=given.root or trained.root)
    return replace(trained, sets=given.sets, root=given.root, unseen=(), ignore_ids=(), ignore_classes=())


def evaluate(
    checkpoint: Checkpoint,
    *,
    root: str | None,
    split: str | None,
    device: str,
    classification: Classification | None = None,
) -> SegmentationScores:
    """Scores of a checkpoint on a split of its dataset; of several their mean.

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
    data = checkpoint.config.data
    if not data.joint_sets:
        return prepare(checkpoint, root=root, split=split, device=device, scoring=scoring).scores()
    data = replace(data, root=root or data.root)
    return mean_scores(score(prepare_sets(checkpoint, data, split=split, device=device, scoring=scoring)))


def score(prepared: Mapping[str, Evaluation]) -> ScoresBySet:
    """Scores of each data set by its name.

    Raises:
        UserError: An image or a label map cannot be read.
    """
    return {name: SetScores(each.vocabulary.class_names, each.scores(name)) for name, each in prepared.items()}


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
    add(
        "--data.sets",
        type=str | None,
        help="File of other data sets, each by its own names.",
    )
    add("--data.set", type=str | None, help="The one of the data sets; null: all of them, and their mean.")
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
    options = parse_options(parser, sys.argv[1:] if arguments is None else arguments)

    refuse_several_processes("trainers.evaluate")
    checkpoint = load_checkpoint(options.checkpoint)
    config = overridden(checkpoint.config, options, OVERRIDES)
    scoring = given_options(options, SCORING_OPTIONS)
    split = options.data.split or config.data.val_split
    with user_errors():
        names = None if options.names is None else listed_names(options.names)
    checkpoint = replace(checkpoint, config=config)
    data = evaluated_data(config.data, options.data)
    if data.joint_sets or options.data.set is not None:
        require(names is None, "--names is for a model of one data set; those of --data.sets have names of their own.")
        prepared = prepare_sets(
            checkpoint,
            data,
            only=options.data.set,
            split=options.data.split,
            device=options.device,
            scoring=scoring,
            text_embeddings=options.text_embeddings,
        )
    else:
        prepared = {
            ONLY: prepare(
                checkpoint,
                root=options.data.root,
                split=split,
                device=options.device,
                scoring=scoring,
                names=names,
                text_embeddings=options.text_embeddings,
            )
        }
    if options.search_calibration:
        require(len(prepared) == 1, "--search_calibration is of one data set at a time; choose it by --data.set.")
        kind, candidates = "calibration", next(iter(prepared.values())).search()
        table, result = format_search(candidates), search_to_dict(candidates)
    else:
        kind = "scores"
        sets = score(prepared)
        table, result = format_sets(sets), sets_to_dict(sets)
    print(table)
    suffix = f"_{options.data.set}" if options.data.set else ""
    suffix += "_calibration" * options.search_calibration
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
