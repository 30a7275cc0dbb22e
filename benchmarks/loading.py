"""How long training waits for its data: ``python -m benchmarks.loading [--config FILE] [--section.key value ...]``."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from benchmarks.report import Section, benchmark_parser, report_folder, write_report
from trainers.assemble import (
    create_dataset,
    create_forward,
    create_model,
    create_vocabulary,
    resolve_statistics,
    resolve_unseen,
)
from trainers.foundation.errors import UserError, main_guard, reading, user_errors
from trainers.options.config import Config
from trainers.options.parsing import parse_config
from trainers.run.training import create_training

WARM_UP = 3
"""Steps that do not count: workers start, and caches fill."""


@dataclass(frozen=True)
class Wait:
    """What a run's steps took.

    Attributes:
        workers: processes that read images.
        waiting: median seconds until a batch was there.
        step: median seconds of the step after it.
    """

    workers: int
    waiting: float
    step: float

    @property
    def share(self) -> float:
        """Of the whole that was spent waiting."""
        return self.waiting / (self.waiting + self.step)


def measure_wait(config: Config) -> Wait:
    """Trains for the configured iterations, and looks at the clock when a batch is asked for and when it comes.

    Raises:
        UserError: The data or an option must be put right first.
    """
    config = resolve_unseen(config)
    with user_errors():
        dataset = create_dataset(config.data, config.data.train_split)
        model = create_model(config, create_vocabulary(config, dataset.class_names))
        config = resolve_statistics(config, model, dataset)
        training = create_training(config, create_forward(model, config), dataset, start_iteration=0)
    times: list[tuple[float, float, float]] = []
    asked, came = 0.0, 0.0

    def ask() -> None:
        nonlocal asked
        asked = time.perf_counter()

    def come() -> None:
        nonlocal came
        came = time.perf_counter()

    def done(trainer: Engine) -> None:
        times.append((asked, came, time.perf_counter()))
        print(f"step {trainer.state.iteration} of {config.train.iterations}", file=sys.stderr)

    training.trainer.add_event_handler(Events.GET_BATCH_STARTED, ask)
    training.trainer.add_event_handler(Events.GET_BATCH_COMPLETED, come)
    training.trainer.add_event_handler(Events.ITERATION_COMPLETED, done)
    training.trainer.run(reading(training.loader), max_epochs=1, epoch_length=config.train.iterations)
    counted = times[WARM_UP:]
    return Wait(
        workers=config.data.num_workers,
        waiting=statistics.median(batch - start for start, batch, _ in counted),
        step=statistics.median(end - batch for _, batch, end in counted),
    )


def wait_section(waits: Sequence[Wait], config: Config) -> Section:
    """The table of waits by the number of workers."""
    rows = [
        (str(wait.workers), f"{1000 * wait.waiting:.1f}", f"{1000 * wait.step:.0f}", f"{100 * wait.share:.2f}")
        for wait in waits
    ]
    height, width = config.data.crop_size
    note = (
        f"{config.model.arch} on {config.model.encoder_name}, dataset {config.data.dataset}, {config.train.batch_size} "
        f"crops of {height}x{width}. Medians of {config.train.iterations - WARM_UP} steps. Decoding and cutting happen "
        "while the step before runs, where there are workers; scale, flip and colours are part of the step."
    )
    return Section("Waiting for data", ("workers", "waiting, ms", "step, ms", "share of waiting, %"), rows, note)


def draw(figure: Any, waits: Sequence[Wait]) -> None:
    """Bars of the share of waiting."""
    axis = figure.subplots()
    axis.bar([str(wait.workers) for wait in waits], [100 * wait.share for wait in waits])
    axis.set(xlabel="processes that read", ylabel="share of waiting, %")
    figure.set_size_inches(4, 3)


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line), measures and writes the report."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = benchmark_parser("loading", "How long training waits for its data; further options are the trainer's.")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="Numbers of processes that read.")
    options, rest = parser.parse_known_args(given)
    if options.rounds < 1:
        raise UserError("--rounds must be at least 1: how long training waits can only be timed.")
    config = parse_config(rest)
    iterations = WARM_UP + (2 if options.quick else 4 * options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        train = replace(config.train, iterations=iterations, output=str(Path(folder) / "run"))
        config = replace(config, train=train, optim=replace(config.optim, warmup_iterations=0))
        waits = [
            measure_wait(replace(config, data=replace(config.data, num_workers=workers))) for workers in options.workers
        ]
    write_report(
        "loading",
        title="Waiting for data",
        command=f"python -m benchmarks.loading {' '.join(given)}".strip(),
        sections=[wait_section(waits, config)],
        numbers={"waits": [asdict(wait) for wait in waits]},
        draw=lambda figure: draw(figure, waits),
        folder=report_folder(options),
    )


if __name__ == "__main__":
    main()
