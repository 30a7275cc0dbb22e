"""From a configuration to the trainer with all that it works with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from segmentation_models_pytorch.base import SegmentationModel
from torch import nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from trainers.data.augment import BatchAugmentation
from trainers.data.batch import Batch, SegmentationDataset
from trainers.data.class_selection import names_without, select_classes
from trainers.data.loaders import create_train_loader
from trainers.engine.average import MovingAverage
from trainers.engine.criteria import build_criterion
from trainers.engine.encoder_blocks import checkpoint_gradients
from trainers.engine.engines import create_trainer
from trainers.engine.forward import Forward
from trainers.engine.optim import create_optimizer, create_scheduler
from trainers.options.config import Config
from trainers.run.checkpoints import Checkpoint


@dataclass(frozen=True)
class Training:
    """The trainer, its data, and what its checkpoints must hold beside the model.

    Attributes:
        trainer: See `create_trainer`.
        loader: The batches of all iterations that are left.
        optimizer: Updates the weights.
        scheduler: Sets the learning rates.
        scaler: Scales the loss in half precision.
        average: The model with a moving average of the weights; ``None`` without one.
    """

    trainer: Engine
    loader: DataLoader[Batch]
    optimizer: Optimizer
    scheduler: LambdaLR
    scaler: GradScaler
    average: SegmentationModel | None

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes back to where a checkpoint was saved, but for the model; rates and decay are those of this command."""
        groups = self.optimizer.param_groups
        chosen = [(group["initial_lr"], group["weight_decay"]) for group in groups]
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.scheduler.load_state_dict(checkpoint.scheduler | {"base_lrs": [rate for rate, _ in chosen]})
        for group, (rate, decay), factor in zip(
            self.optimizer.param_groups, chosen, self.scheduler.lr_lambdas, strict=True
        ):
            group.update(initial_lr=rate, lr=rate * factor(self.scheduler.last_epoch), weight_decay=decay)
        if self.scaler.is_enabled() and checkpoint.scaler:
            self.scaler.load_state_dict(checkpoint.scaler)
        if self.average is not None:
            self.average.load_state_dict(checkpoint.weights)


def create_training(
    config: Config, forward: Forward, dataset: SegmentationDataset, *, start_iteration: int
) -> Training:
    """Builds the trainer and what it works with, ready for iteration ``start_iteration``, counted from 0.

    Of the dataset's classes it sees those alone that are not to be unseen.

    Raises:
        ValueError: Options that do not fit together or the images, or no iteration is left.
    """
    rank, world_size = idist.get_rank(), idist.get_world_size()
    if config.data.photometric and config.data.channels and dataset[0].image.dtype == torch.float32:
        raise ValueError(
            "--data.photometric distorts colours between 0 and 1, but the images are float32, in a unit of their own; "
            "set it to 0."
        )
    if config.train.batch_size % world_size:
        raise ValueError(
            f"A batch of {config.train.batch_size} cannot be shared by {world_size} processes evenly; set "
            "--train.batch_size to a multiple of their number."
        )
    prepare_encoder(forward.model, config)
    optimizer = create_optimizer(
        forward.model,
        lr=config.optim.lr,
        encoder_lr_factor=config.optim.encoder_lr_factor,
        weight_decay=config.optim.weight_decay,
        layer_decay=config.optim.layer_decay,
    )
    scheduler = create_scheduler(
        optimizer,
        iterations=config.train.iterations,
        warmup_iterations=config.optim.warmup_iterations,
        power=config.optim.power,
    )
    scaler = GradScaler(forward.device.type, enabled=forward.dtype == torch.float16)
    augmentation = BatchAugmentation(
        crop_size=config.data.crop_size,
        scale_range=config.data.scale_range,
        flip=config.data.flip,
        photometric=config.data.photometric,
        max_class_share=config.data.max_class_share,
        seed=config.train.seed,
        rank=rank,
    )
    seen = names_without(dataset.class_names, config.data.unseen_names, option="--data.unseen")
    loader = create_train_loader(
        select_classes(dataset, seen),
        batch_size=config.train.batch_size // world_size,
        cut_size=augmentation.cut_size,
        iterations=config.train.iterations,
        num_workers=config.data.num_workers,
        seed=config.train.seed,
        start_iteration=start_iteration,
        rank=rank,
        world_size=world_size,
        pin_memory=forward.device.type == "cuda",
    )
    wrap_for_training(forward, compile_model=config.train.compile)
    trainer = create_trainer(
        forward,
        build_criterion(config.model.arch, **asdict(config.loss)),
        optimizer,
        scheduler,
        scaler,
        augmentation,
        clip_norm=config.optim.clip_norm,
        freeze_norms=config.optim.freeze_norms,
        accumulate=config.train.accumulate,
        seed=config.train.seed,
        folder=Path(config.train.output),
    )
    trainer.load_state_dict({"iteration": start_iteration, "max_epochs": 1, "epoch_length": config.train.iterations})
    average = None
    if config.train.ema_decay > 0:
        handler = MovingAverage(forward.model, momentum=1 - config.train.ema_decay, handle_buffers="update")
        handler.attach(trainer)
        average = handler.ema_model
    return Training(trainer, loader, optimizer, scheduler, scaler, average)


def prepare_encoder(model: SegmentationModel, config: Config) -> None:
    """Freezes the encoder, or lets it keep less for the backward pass, where that is asked for.

    Raises:
        ValueError: The encoder can not keep less.
    """
    if config.optim.freeze_encoder:
        model.freeze_encoder()
        model.encoder.eval()  # which smp then leaves in the mode that it is in, DropPath included
    if config.train.gradient_checkpointing:
        checkpoint_gradients(model.encoder)


def wrap_for_training(forward: Forward, *, compile_model: bool) -> None:
    """Lets training call the model through what shares gradients among processes, and what compiles it."""
    if idist.get_world_size() > 1:
        devices = [forward.device] if forward.device.type == "cuda" else None
        forward.trained = DistributedDataParallel(forward.trained, device_ids=devices)
    if compile_model:
        forward.trained = cast("nn.Module", torch.compile(forward.trained))
