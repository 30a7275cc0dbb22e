"""Trains a model: ``python -m trainers.train [--config FILE] [--section.key value ...]``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Events

from trainers.assemble import (
    create_dataset,
    create_forward,
    create_model,
    create_sets,
    create_vocabulary,
    resolve_statistics,
    resolve_unseen,
)
from trainers.data.batch import SegmentationDataset
from trainers.data.check import check_before_training
from trainers.data.loaders import create_eval_loader
from trainers.engine.engines import Evaluator
from trainers.engine.forward import Forward, resolve_device
from trainers.engine.vocabulary import Vocabulary
from trainers.foundation.errors import UserError, main_guard, reading, user_errors
from trainers.foundation.launch import joined_processes
from trainers.models import has_random_text
from trainers.options.config import Config, TrainConfig
from trainers.options.parsing import config_to_yaml, parse_config
from trainers.report.logbook import Logbook, attach_progress_bars
from trainers.run.checkpoints import (
    BEST,
    LAST,
    PREVIOUS,
    Checkpoint,
    ValidationState,
    load_checkpoint,
    load_latest,
)
from trainers.run.failures import run_failures
from trainers.run.interruption import Interruption
from trainers.run.progress import Progress
from trainers.run.resume import check_resumable, with_found_out
from trainers.run.summary import summarize
from trainers.run.training import Training, create_training
from trainers.run.validation import Look, Validation
from trainers.scores.by_set import ONLY


def train(config: Config) -> None:
    """Trains as configured, and prints the best checkpoint's scores and where everything lies.

    A run that the output folder holds is gone on with, see `trainers.options.config.TrainConfig`. One that is asked
    to stop (Ctrl-C, SIGTERM) finishes its step, saves, and says how to go on.

    Raises:
        UserError: Something in the options, the data or the checkpoint must be put right first; or the run cannot
            go on, see `trainers.run.failures`.
    """
    config = resolve_unseen(config)
    folder, first = Path(config.train.output), idist.get_rank() == 0
    with user_errors():
        resumed = find_checkpoint(folder, config.train)
        train_set = create_dataset(config.data, config.data.train_split)
        val_sets = create_sets(config.data, config.data.val_split)
        vocabulary = create_vocabulary(config, train_set.class_names)
        if resumed:
            check_resumable(resumed, folder, config, vocabulary.class_names)
            vocabulary = vocabulary if resumed.bank is None else resumed.vocabulary
        torch.manual_seed(config.train.seed)
        model = create_model(config, vocabulary)
        model = model.to(resolve_device(config.train.device))
        if vocabulary.unseen:
            vocabulary.named(model, vocabulary.class_names)  # or what is wrong with them is told much later
        # Last of all, since it can take long: what else is wrong should be told at once.
        train_set = check(train_set, config.data.train_split, config, learned=vocabulary.seen)
        val_sets = {name: check_validation(each, name, config) for name, each in val_sets.items()}
        config = with_found_out(config, resumed) if resumed else resolve_statistics(config, model, train_set)
        forward = create_forward(model, config)
        start = resumed.iteration if resumed else 0
        training = create_training(config, forward, train_set, start_iteration=start)
    if resumed:
        forward.model.load_state_dict(resumed.model)
        training.load(resumed)
    with Interruption() as interruption, run_failures(folder):
        progress = create_progress(config, forward, training, val_sets, vocabulary, interruption, resumed)
        if first:
            print(describe(config, forward, vocabulary, len(train_set), sum(map(len, val_sets.values()))), flush=True)
            if start:
                print(f"Going on from iteration {start}.", flush=True)
            (folder / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
        training.trainer.add_event_handler(Events.ITERATION_COMPLETED, progress)
        if resumed:
            progress.finish(start)
        if start < config.train.iterations and not progress.stopped:
            training.trainer.run(reading(training.loader), max_epochs=1, epoch_length=config.train.iterations)
    if progress.validation.logbook is not None:
        progress.validation.logbook.close()
    if first and progress.stopped:
        print(f"Stopped after iteration {training.trainer.state.iteration}; the same command goes on from there.")
    elif first:
        print(summarize(load_checkpoint(folder / BEST), folder, val_sets))


def find_checkpoint(folder: Path, config: TrainConfig) -> Checkpoint | None:
    """The checkpoint to go on from, or ``None`` for a new run.

    One whose best validation has lost its weights knows of no validation: of those to come one is then the best.

    Raises:
        UserError: A new run would overwrite another.
    """
    if config.resume == "never" and any((folder / name).exists() for name in (LAST, PREVIOUS)):
        raise UserError(
            f"{folder} already holds a run; choose another --train.output, go on with --train.resume auto, or "
            "remove it."
        )
    with idist.one_rank_first():  # which renames what is damaged
        latest = load_latest(folder)
    if latest is None or latest.validation.best_score is None or (folder / BEST).exists():
        return latest
    if idist.get_rank() == 0:
        print(f"warning: {folder / BEST} is gone; the best of the validations from now on is kept.", file=sys.stderr)
    return replace(latest, validation=ValidationState())


def check(dataset: SegmentationDataset, split: str, config: Config, *, learned: Sequence[str]) -> SegmentationDataset:
    """The part of a dataset that can be used; ``learned`` are the classes that it is to teach.

    Raises:
        ValueError: An image or a label map cannot be used, and that is to stop the run; or less than two classes are
            there to be learned.
        OSError: The run's folder cannot be written to.
    """
    return check_before_training(
        dataset,
        split=split,
        folder=Path(config.train.output),
        on_error=config.data.on_error,
        num_workers=config.data.num_workers,
        learned=learned,
    )


def check_validation(dataset: SegmentationDataset, name: str, config: Config) -> SegmentationDataset:
    """The part of the validation images of a data set, by its name, that can be used.

    Raises:
        ValueError: See `check`; or there are fewer images than processes.
        OSError: See `check`.
    """
    split = config.data.val_split if name == ONLY else f"{config.data.val_split} of {name}"
    dataset = check(dataset, split, config, learned=())
    if len(dataset) < idist.get_world_size():
        which = "validation images" if name == ONLY else f"validation images of {name}"
        raise ValueError(f"The {len(dataset)} {which} are too few for {idist.get_world_size()} processes; start fewer.")
    return dataset


def create_progress(
    config: Config,
    forward: Forward,
    training: Training,
    val_sets: Mapping[str, SegmentationDataset],
    vocabulary: Vocabulary,
    interruption: Interruption,
    resumed: Checkpoint | None,
) -> Progress:
    """Builds what follows a step: validation, checkpoints, and what the first process writes down."""
    folder, rank = Path(config.train.output), idist.get_rank()
    evaluated = forward if training.average is None else create_forward(training.average, config)
    looks = {
        name: Look(
            Evaluator(evaluated, vocabulary.of(dataset.class_names)),
            create_eval_loader(
                dataset,
                batch_size=max(1, config.train.batch_size // idist.get_world_size()),
                num_workers=config.data.num_workers,
                rank=rank,
                world_size=idist.get_world_size(),
                pin_memory=forward.device.type == "cuda",
            ),
        )
        for name, dataset in val_sets.items()
    }
    logbook, bar = None, None
    if rank == 0:
        start = training.trainer.state.iteration
        logbook = Logbook(
            folder,
            overlays=config.train.overlays,
            bands=config.data.shown_bands,
            start_iteration=start,
        )
        logbook.log_config(config_to_yaml(config))
        evaluators = {name: look.evaluator for name, look in looks.items()}
        logbook.attach(training.trainer, evaluators)
        bar = attach_progress_bars(training.trainer, evaluators)
    validation = Validation(
        forward=evaluated,
        looks=looks,
        interruption=interruption,
        logbook=logbook,
        bar=bar,
        state=resumed.validation if resumed else ValidationState(),
    )

    def snapshot(iteration: int) -> Checkpoint:
        return Checkpoint(
            config=config,
            class_names=vocabulary.class_names,
            iteration=iteration,
            validation=validation.state,
            model=forward.model.state_dict(),
            average=None if training.average is None else training.average.state_dict(),
            optimizer=training.optimizer.state_dict(),
            scheduler=training.scheduler.state_dict(),
            scaler=training.scaler.state_dict(),
            bank=vocabulary.bank,
            bank_encoder=vocabulary.bank_encoder,
        )

    return Progress(config.train, folder, validation, snapshot, interruption)


def describe(config: Config, forward: Forward, vocabulary: Vocabulary, train_length: int, val_length: int) -> str:
    """What is about to be trained; says so where the class names carry no meaning."""
    model = config.model
    which = f", {len(vocabulary.unseen)} of them unseen in training" if vocabulary.unseen else ""
    if config.data.joint_sets:
        which = f" of {', '.join(one.name for one in config.data.joint_sets)}"
    text = (
        f"{model.arch} on {model.encoder_name}: {len(vocabulary.class_names)} classes{which}, {train_length} training "
        f"and {val_length} validation images, {forward.device} in {str(forward.dtype).removeprefix('torch.')}"
    )
    if idist.get_world_size() > 1:
        text += f", {idist.get_world_size()} processes"
    if has_random_text(model.arch, text_encoder=model.text_encoder, text_pretrained=model.text_pretrained):
        text += f"\nThe text tower {model.text_encoder} has random weights: the class names carry no meaning."
    return text


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line) and trains, as one of the processes that a launcher started."""
    config = parse_config(arguments)
    with joined_processes(config.train.device):
        train(config)


if __name__ == "__main__":
    main()
