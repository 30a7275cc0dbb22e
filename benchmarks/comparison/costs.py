"""What the models of a comparison cost, each beside its peers in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.comparison.datasets import usable_dataset
from benchmarks.comparison.records import Costs
from benchmarks.measure import count_flops, peak_bytes, time_in_turn
from benchmarks.report import describe_machine
from trainers.assemble import create_forward, create_model, create_vocabulary, resolve_statistics, resolve_unseen
from trainers.engine.forward import Forward
from trainers.foundation.errors import user_errors
from trainers.options.config import Config
from trainers.run.training import Training, create_training


@dataclass(frozen=True)
class _Contender:
    """A model that is ready to train and to predict.

    Attributes:
        forward: the model.
        training: its trainer.
        image: (1, C, H, W), the first of the validation images, as it is stored.
    """

    forward: Forward
    training: Training
    image: Tensor

    def predict(self) -> None:
        """Labels the image."""
        self.forward.predict_labels(self.image)

    def stepping(self) -> Callable[[], None]:
        """A function that makes a training step, always on the first batch."""
        trainer, batches = self.training.trainer, [next(iter(self.training.loader))]

        def step() -> None:
            trainer.load_state_dict({"iteration": 0, "max_epochs": 1, "epoch_length": 1})
            trainer.run(batches, max_epochs=1, epoch_length=1)

        return step


def measure_costs(configs: Mapping[str, Config], folder: Path, *, rounds: int) -> dict[str, Costs]:
    """Costs of contenders by name; all are in memory at once, and are timed in turn.

    Args:
        configs: how each is trained.
        folder: of the comparison.
        rounds: that are timed, after one that is not.

    Raises:
        UserError: Something in the options or the data must be put right first.
    """
    contenders = {name: _create(config, folder) for name, config in configs.items()}
    latency = time_in_turn({name: one.predict for name, one in contenders.items()}, rounds, title="one image")
    steps = {name: one.stepping() for name, one in contenders.items()}
    seconds = time_in_turn(steps, rounds, title="training step")
    costs = {}
    for name, one in contenders.items():
        model = one.forward.model
        peak = peak_bytes(steps[name], model)
        one.predict()  # after a step, the first image would have the text encoded anew
        model.requires_grad_(False)  # the counter hooks parameters that are trained, which inference mode forbids
        costs[name] = Costs(
            encoder_parameters=_count(model.encoder),
            decoder_parameters=_count(model) - _count(model.encoder),
            flops=count_flops(one.predict),
            latency=latency.median(name),
            step_seconds=seconds.median(name),
            step_bytes=peak,
            machine=describe_machine(),
        )
    return costs


def _create(config: Config, folder: Path) -> _Contender:
    config = resolve_unseen(replace(config, train=replace(config.train, output="")))
    train_set = usable_dataset(config.data, config.data.train_split, folder)
    val_set = usable_dataset(config.data, config.data.val_split, folder)
    with user_errors():
        torch.manual_seed(config.train.seed)
        model = create_model(config, create_vocabulary(config, train_set.class_names))
        config = resolve_statistics(config, model, train_set)
        forward = create_forward(model, config)
        training = create_training(config, forward, train_set, start_iteration=0)
        image = val_set[0].image[None]
    return _Contender(forward, training, image)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
