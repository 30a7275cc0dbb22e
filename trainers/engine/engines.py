"""Ignite engines that train and evaluate."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainers.data.augment import BatchAugmentation
from trainers.data.batch import IGNORE_INDEX, Batch
from trainers.data.class_selection import selection_table
from trainers.engine.criteria import Criterion, Part
from trainers.engine.encoder_norms import keep_statistics
from trainers.engine.forward import Forward
from trainers.engine.vocabulary import Vocabulary
from trainers.foundation.errors import UserError
from trainers.foundation.files import save_whole
from trainers.foundation.randomness import derive_generators, derive_seed
from trainers.scores.boundary import BoundaryMetric
from trainers.scores.metrics import LabelConfusionMatrix


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
        batch: The batch, its labels on the evaluator's device; its images stay where they were read.
        prediction: (B, H, W) int64 class ids.
        unseen_labels: (B, H, W) the unseen class of each pixel by its place among the unseen, 255 for all other
            pixels; ``None`` without unseen classes.
        unseen_prediction: (B, H, W) what is predicted of them where the names of the unseen alone are known; ``None``
            without unseen classes.
    """

    batch: Batch
    prediction: Tensor
    unseen_labels: Tensor | None = None
    unseen_prediction: Tensor | None = None


def create_trainer(
    forward: Forward,
    criterion: Criterion,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    scaler: GradScaler,
    augmentation: BatchAugmentation,
    *,
    clip_norm: float,
    freeze_norms: bool = False,
    accumulate: int,
    seed: int,
    folder: Path,
) -> Engine:
    """An engine whose step augments a batch, updates the weights and gives a `TrainStep`.

    ``state.iteration`` counts the iterations of the whole run. All that is random in a step derives from the
    seed, this count, and a sample's place in the batch of all processes, so a run that is resumed goes on as if it
    had never stopped. Into how many processes and parts a batch is split does not matter, except to what looks at
    the images of a process or part together (batch norms that are not frozen, the dice of `PixelCriterion`) and to
    DropPath and dropout, which each process draws for itself.

    Args:
        forward: The model, with its normalisation and precision.
        criterion: Gives the loss terms.
        optimizer: Updates the weights.
        scheduler: Stepped after each iteration.
        scaler: Scales the loss in half precision; does nothing where it is not enabled.
        augmentation: Works on the batch on the model's device.
        clip_norm: Largest norm of all gradients together.
        freeze_norms: Whether norms of the encoder keep their statistics.
        accumulate: Parts that the batch of this process is worked off in.
        seed: The run's seed.
        folder: Where a batch whose loss is not finite goes, with the model.

    Raises:
        UserError: By the engine, when the loss or its gradient is not finite.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    rank = idist.get_rank()

    def backward(batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Gradients of the whole batch, part by part, and its loss terms."""
        count = len(batch.names)
        slots = range(rank * count, (rank + 1) * count)
        generators = derive_generators("points", seed, iteration, slots, forward.device)
        size = math.ceil(count / accumulate)
        terms: dict[str, Tensor] = {}
        for start in range(0, count, size):
            span = slice(start, start + size)
            known = None if batch.known is None else batch.known[span]
            part = Part(batch.images[span], batch.labels[span], batch.labels, generators[span], known)
            # Gradients of the processes are averaged once, when those of the last part come.
            last = start + size >= count
            with nullcontext() if last else getattr(forward.trained, "no_sync", nullcontext)():
                own = criterion(forward, part)
                scaler.scale(torch.stack(list(own.values())).sum()).backward()
            for name, value in own.items():
                terms[name] = terms[name] + value.detach() if name in terms else value.detach()
        return terms

    def step(engine: Engine, batch: Batch) -> TrainStep:
        iteration = engine.state.iteration - 1
        torch.manual_seed(derive_seed("model", seed, iteration, rank))
        forward.trained.train()
        if freeze_norms:
            keep_statistics(forward.model.encoder)
        batch = augmentation(batch.to(forward.device, non_blocking=True), iteration)
        optimizer.zero_grad()
        terms = backward(batch, iteration)
        scaler.unscale_(optimizer)
        grad_norm = clip_grad_norm_(parameters, clip_norm)
        means = cast("Tensor", idist.all_reduce(torch.stack(list(terms.values())))) / idist.get_world_size()
        # One transfer for all numbers: on a GPU each would wait for the device.
        norm, *values = torch.cat([grad_norm[None], means]).tolist()
        total = sum(values)
        # Half precision overflows now and then: the scaler leaves such a step out and scales less from then on.
        if not math.isfinite(total) or not (math.isfinite(norm) or scaler.is_enabled()):
            raise _not_finite(forward, batch, folder, iteration=iteration + 1, loss=total, norm=norm)
        learning_rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        scaler.step(optimizer)
        scaler.update()
        if not math.isfinite(norm) and scaler.get_scale() < 1:  # however little it is scaled
            raise _not_finite(forward, batch, folder, iteration=iteration + 1, loss=total, norm=norm)
        scheduler.step()
        return TrainStep(
            loss=total,
            terms=dict(zip(terms, values, strict=True)),
            grad_norm=norm,
            learning_rates=learning_rates,
        )

    return _quiet(Engine(step))


def _not_finite(forward: Forward, batch: Batch, folder: Path, *, iteration: int, loss: float, norm: float) -> UserError:
    """Keeps what led to a loss that is not finite, and says where."""
    path = folder / f"not_finite_{iteration}_{idist.get_rank()}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    save_whole(
        {
            "iteration": iteration,
            "model": forward.model.state_dict(),
            "images": batch.images,
            "labels": batch.labels,
            "names": batch.names,
        },
        path,
    )
    return UserError(
        f"The loss is {loss} and its gradient's norm {norm} at iteration {iteration}, on {', '.join(batch.names)}; "
        "lower --optim.lr, or set --train.precision to float32; the model and the augmented batch before it are in "
        f"{path}."
    )


class Evaluator(Engine):
    """An engine that predicts images of any size and counts in ``state.metrics``.

    ``"confusion"`` is the confusion matrix (K, K), ``"boundary"`` a `trainers.scores.boundary.BoundaryCounts`: both
    over all processes, without ignored pixels and the padding of the batch. Where the model knows other names than
    the vocabulary has, or was not trained on some of these, each run begins with giving a copy of it the names of all.
    Where the vocabulary has unseen classes, ``"unseen"`` is the confusion matrix (U, U) of the unseen ones where no
    other names are known. `trainers.scores.metrics.segmentation_scores` reads them.

    Args:
        forward: The model, with its normalisation and precision.
        vocabulary: The K classes, and which of them the model is not trained on.

    Attributes:
        forward: What predicts: the model itself, or a copy of it with the names of all classes.
        unseen_forward: What predicts with the names of the unseen classes alone.
    """

    def __init__(self, forward: Forward, vocabulary: Vocabulary) -> None:
        super().__init__(self._look)
        self.forward = self.unseen_forward = self._source = forward
        self.vocabulary = vocabulary
        self._unseen_table = selection_table(vocabulary.class_names, vocabulary.unseen).to(forward.device)
        self.add_event_handler(Events.STARTED, self._give_names)
        self._count("confusion", len(vocabulary.class_names), lambda step: (step.prediction, step.batch.labels))
        boundary = BoundaryMetric(
            len(vocabulary.class_names),
            device=forward.device,
            output_transform=lambda step: (step.prediction, step.batch.labels, step.batch.sizes),
        )
        boundary.attach(self, "boundary")
        if vocabulary.unseen:
            self._count("unseen", len(vocabulary.unseen), lambda step: (step.unseen_prediction, step.unseen_labels))
        _quiet(self)

    def _count(self, name: str, num_classes: int, pair: Callable[[EvalStep], tuple[Tensor | None, ...]]) -> None:
        num_classes = max(num_classes, 2)  # which Ignite asks for; a second class that occurs nowhere does not count
        LabelConfusionMatrix(num_classes, device=self._source.device, output_transform=pair).attach(self, name)

    def _give_names(self) -> None:
        model, vocabulary = self._source.model, self.vocabulary
        if vocabulary.unseen or not vocabulary.names(model):
            self.forward = self._source.of(vocabulary.named(model, vocabulary.class_names))
        if vocabulary.unseen:
            self.unseen_forward = self._source.of(vocabulary.named(model, vocabulary.unseen))

    def _look(self, engine: Engine, batch: Batch) -> EvalStep:
        batch = replace(batch, labels=batch.labels_on(self.forward.device))
        prediction = predict_batch(self.forward, batch)
        if not self.vocabulary.unseen:
            return EvalStep(batch, prediction)
        labels = self._unseen_table[batch.labels]
        # Images that show none of them have no say in how they are told from one another.
        shown = bool((labels != IGNORE_INDEX).any())
        alone = predict_batch(self.unseen_forward, batch) if shown else torch.zeros_like(labels)
        return EvalStep(batch, prediction, unseen_labels=labels, unseen_prediction=alone)


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
