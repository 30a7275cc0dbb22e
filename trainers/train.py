"""Trains a model: ``python -m trainers.train [--config FILE] [--section.key value ...]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from trainers.assemble import create_dataset, create_forward, create_model, resolve_statistics
from trainers.augment import BatchAugmentation
from trainers.checkpoints import Checkpoint, check_same_model, load_checkpoint
from trainers.config import Config, TrainConfig, config_to_yaml, parse_config
from trainers.criteria import build_criterion
from trainers.data.batch import Batch, SegmentationDataset
from trainers.data.loaders import create_eval_loader, create_train_loader
from trainers.engines import create_evaluator, create_trainer
from trainers.errors import UserError, main_guard, reading, user_errors
from trainers.forward import Forward
from trainers.logbook import Logbook, attach_progress_bars
from trainers.metrics import format_scores
from trainers.models import has_random_text
from trainers.optim import create_optimizer, create_scheduler
from trainers.validation import BEST, LAST, Validation


@dataclass(frozen=True)
class Training:
    """The trainer, its data, and what its checkpoints must hold beside the model.

    Attributes:
        trainer: See `create_trainer`.
        loader: The batches of all iterations that are left.
        optimizer: Updates the weights.
        scheduler: Sets the learning rates.
    """

    trainer: Engine
    loader: DataLoader[Batch]
    optimizer: Optimizer
    scheduler: LRScheduler


def train(config: Config) -> None:
    """Trains as configured, and prints the best checkpoint's scores and where everything lies.

    Raises:
        UserError: Something in the options, the data or the checkpoint must be put right first.
    """
    folder = Path(config.train.output)
    resumed = find_checkpoint(folder, config.train)
    start = resumed.iteration if resumed else 0
    with user_errors():
        train_set = create_dataset(config.data, config.data.train_split)
        val_set = create_dataset(config.data, config.data.val_split)
        class_names = tuple(train_set.class_names)
        if resumed:
            check_same_model(resumed, folder / LAST, model=config.model, class_names=class_names)
        torch.manual_seed(config.train.seed)
        model = create_model(config, class_names)
        config = resolve_statistics(config, model)
        forward = create_forward(model, config)
        training = create_training(config, forward, train_set, start_iteration=start)
    if resumed:
        forward.model.load_state_dict(resumed.model)
        training.optimizer.load_state_dict(resumed.optimizer)
        training.scheduler.load_state_dict(resumed.scheduler)
    val_loader = create_eval_loader(val_set, batch_size=config.train.batch_size, num_workers=config.data.num_workers)
    evaluator = create_evaluator(forward, num_classes=len(class_names))

    print(describe(config, forward, train_set, val_set), flush=True)
    logbook = Logbook(folder, class_names=class_names, overlays=config.train.overlays, start_iteration=start)
    logbook.log_config(config_to_yaml(config))
    (folder / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    logbook.attach(training.trainer, evaluator)
    validation = Validation(
        config=config,
        class_names=class_names,
        folder=folder,
        forward=forward,
        optimizer=training.optimizer,
        scheduler=training.scheduler,
        evaluator=evaluator,
        loader=val_loader,
        logbook=logbook,
        bar=attach_progress_bars(training.trainer, evaluator),
        best_mean_iou=resumed.best_mean_iou if resumed else None,
    )
    iterations, every = config.train.iterations, config.train.validate_every
    training.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(event_filter=lambda _, i: i % every == 0 or i == iterations), validation
    )
    training.trainer.run(reading(training.loader), max_epochs=1, epoch_length=iterations)
    logbook.close()
    print(summarize(load_checkpoint(folder / BEST), folder, logbook))


def find_checkpoint(folder: Path, config: TrainConfig) -> Checkpoint | None:
    """The checkpoint to go on from, or ``None`` for a new run.

    Raises:
        UserError: A new run would overwrite another.
    """
    if not (folder / LAST).exists():
        return None
    if config.resume == "never":
        raise UserError(
            f"{folder} already holds a run; choose another --train.output, go on with --train.resume auto, or "
            "remove it."
        )
    return load_checkpoint(folder / LAST)


def create_training(
    config: Config, forward: Forward, dataset: SegmentationDataset, *, start_iteration: int
) -> Training:
    """Builds the trainer and what it works with, ready for iteration ``start_iteration``, counted from 0.

    Raises:
        ValueError: Options that do not fit together, or no iteration is left.
    """
    optimizer = create_optimizer(
        forward.model,
        lr=config.optim.lr,
        encoder_lr_factor=config.optim.encoder_lr_factor,
        weight_decay=config.optim.weight_decay,
    )
    scheduler = create_scheduler(
        optimizer,
        iterations=config.train.iterations,
        warmup_iterations=config.optim.warmup_iterations,
        power=config.optim.power,
    )
    augmentation = BatchAugmentation(
        crop_size=config.data.crop_size,
        scale_range=config.data.scale_range,
        flip=config.data.flip,
        photometric=config.data.photometric,
        seed=config.train.seed,
    )
    loader = create_train_loader(
        dataset,
        batch_size=config.train.batch_size,
        cut_size=augmentation.cut_size,
        iterations=config.train.iterations,
        num_workers=config.data.num_workers,
        seed=config.train.seed,
        start_iteration=start_iteration,
        pin_memory=forward.device.type == "cuda",
    )
    trainer = create_trainer(
        forward,
        build_criterion(config.model.arch, **asdict(config.loss)),
        optimizer,
        scheduler,
        augmentation,
        clip_norm=config.optim.clip_norm,
        seed=config.train.seed,
    )
    trainer.load_state_dict({"iteration": start_iteration, "max_epochs": 1, "epoch_length": config.train.iterations})
    return Training(trainer=trainer, loader=loader, optimizer=optimizer, scheduler=scheduler)


def describe(config: Config, forward: Forward, train_set: SegmentationDataset, val_set: SegmentationDataset) -> str:
    """What is about to be trained; says so where the class names carry no meaning."""
    model = config.model
    text = (
        f"{model.arch} on {model.encoder_name}: {len(train_set.class_names)} classes, {len(train_set)} training "
        f"and {len(val_set)} validation images, {forward.device} in {'bf16' if forward.bf16 else 'float32'}"
    )
    if has_random_text(model.arch, text_encoder=model.text_encoder, text_pretrained=model.text_pretrained):
        text += f"\nThe text tower {model.text_encoder} has random weights: the class names carry no meaning."
    return text


def summarize(best: Checkpoint, folder: Path, logbook: Logbook) -> str:
    """The best checkpoint's table of classes, and how to look at what the run left."""
    return "\n".join(
        [
            f"\nBest validation, after iteration {best.iteration}:",
            format_scores(best.scores, best.class_names),
            "",
            f"Checkpoint:   {folder / BEST}  (the last one: {folder / LAST})",
            f"Overlays:     {logbook.overlay_folder}  (image | truth | prediction, of the last validation)",
            f"TensorBoard:  tensorboard --logdir {logbook.log_folder}",
            f"Predict:      python -m trainers.predict --checkpoint {folder / BEST} IMAGE ... --output DIR",
        ]
    )


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line) and trains."""
    train(parse_config(arguments))


if __name__ == "__main__":
    main()
