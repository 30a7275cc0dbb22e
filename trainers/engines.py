"""Ignite engines that train and evaluate."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainers.augment import BatchAugmentation
from trainers.boundary import BoundaryMetric
from trainers.criteria import Criterion
from trainers.data.batch import Batch
from trainers.errors import UserError
from trainers.forward import Forward
from trainers.metrics import LabelConfusionMatrix


@dataclass(frozen=True)
class TrainStep:
    """What one training step was like; the trainer's ``state.output``.

    Attributes:
        loss: The sum of the terms.
        terms: The weighted loss terms by name.
        grad_norm: Norm of all gradients together, before they were clipped.
        learning_rates: Learning rate of the step by parameter group.
    """

    loss: float
    terms: dict[str, float]
    grad_norm: float
    learning_rates: dict[str, float]


@dataclass(frozen=True)
class EvalStep:
    """One batch and the class ids predicted for it; the evaluator's ``state.output``.

    Attributes:
        batch: The batch, on the evaluator's device.
        prediction: (B, H, W) int64 class ids.
    """

    batch: Batch
    prediction: Tensor


def create_trainer(
    forward: Forward,
    criterion: Criterion,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    augmentation: BatchAugmentation,
    *,
    clip_norm: float,
    seed: int,
) -> Engine:
    """An engine whose step augments a batch, updates the weights and gives a `TrainStep`.

    ``state.iteration`` counts the iterations of the whole run. All that is random in a step derives from the
    seed and this count, so a run that is resumed goes on as if it had never stopped.

    Args:
        forward: The model, with its normalisation and precision.
        criterion: Gives the loss terms.
        optimizer: Updates the weights.
        scheduler: Stepped after each iteration.
        augmentation: Works on the batch on the model's device.
        clip_norm: Largest norm of all gradients together.
        seed: The run's seed.

    Raises:
        UserError: By the engine, when the loss or its gradient is not finite.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def step(engine: Engine, batch: Batch) -> TrainStep:
        iteration = engine.state.iteration - 1
        torch.manual_seed(int(np.random.SeedSequence((seed, iteration)).generate_state(1)[0]))
        forward.model.train()
        batch = augmentation(batch.to(forward.device, non_blocking=True), iteration)
        terms = criterion(forward, batch.images, batch.labels)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        grad_norm = clip_grad_norm_(parameters, clip_norm)
        # One transfer for all numbers: on a GPU each would wait for the device.
        total, norm, *values = torch.stack([loss, grad_norm, *terms.values()]).detach().tolist()
        if not np.isfinite([total, norm]).all():
            raise UserError(
                f"The loss is {total} and its gradient's norm {norm} at iteration {iteration + 1}; lower --optim.lr, "
                "or set --train.precision to float32."
            )
        learning_rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        optimizer.step()
        scheduler.step()
        return TrainStep(
            loss=total,
            terms=dict(zip(terms, values, strict=True)),
            grad_norm=norm,
            learning_rates=learning_rates,
        )

    return _quiet(Engine(step))


def create_evaluator(forward: Forward, *, num_classes: int) -> Engine:
    """An engine that predicts images of any size and counts in ``state.metrics``.

    ``"confusion"`` is the confusion matrix (K, K), ``"boundary"`` a `trainers.boundary.BoundaryCounts`: both over all
    processes, without ignored pixels and the padding of the batch. `trainers.metrics.segmentation_scores` reads them.

    Args:
        forward: The model, with its normalisation and precision.
        num_classes: K.
    """

    def step(engine: Engine, batch: Batch) -> EvalStep:
        batch = batch.to(forward.device, non_blocking=True)
        return EvalStep(batch=batch, prediction=predict_batch(forward, batch))

    evaluator = _quiet(Engine(step))
    confusion = LabelConfusionMatrix(
        num_classes,
        device=forward.device,
        output_transform=lambda output: (output.prediction, output.batch.labels),
    )
    confusion.attach(evaluator, "confusion")
    boundary = BoundaryMetric(
        num_classes,
        device=forward.device,
        output_transform=lambda output: (output.prediction, output.batch.labels, output.batch.sizes),
    )
    boundary.attach(evaluator, "boundary")
    return evaluator


def predict_batch(forward: Forward, batch: Batch) -> Tensor:
    """Class ids (B, H, W) of a batch; images of different sizes are predicted one by one, without padding."""
    if len(set(batch.sizes)) == 1:
        return forward.predict_labels(batch.images)
    prediction = torch.zeros_like(batch.labels)
    for index, (height, width) in enumerate(batch.sizes):
        image = batch.images[index : index + 1, :, :height, :width]
        prediction[index, :height, :width] = forward.predict_labels(image)[0]
    return prediction


def _quiet(engine: Engine) -> Engine:
    # The engine logs an exception's message before it raises it; the user should read it once.
    engine.logger.setLevel(logging.CRITICAL)
    return engine
