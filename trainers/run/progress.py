"""What follows a training step: a validation, a checkpoint, or the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine

from trainers.options.config import TrainConfig
from trainers.run.checkpoints import BEST, LAST, PREVIOUS, Checkpoint, save_checkpoint
from trainers.run.interruption import Interruption
from trainers.run.validation import Validation


@dataclass
class Progress:
    """A handler for the trainer that validates and saves when it is time, and stops when asked to.

    Attributes:
        config: When it is time.
        folder: The run's.
        validation: Validates.
        snapshot: Makes a checkpoint of an iteration.
        interruption: Asks to stop.
        stopped: Whether the run stopped before its end.
    """

    config: TrainConfig
    folder: Path
    validation: Validation
    snapshot: Callable[[int], Checkpoint]
    interruption: Interruption
    stopped: bool = False

    def __call__(self, trainer: Engine) -> None:
        """Does what is due after the trainer's current iteration."""
        iteration = trainer.state.iteration
        # Whoever asks may not wait for a validation: it is made up for when the run goes on.
        self.stopped = self.interruption.agreed(iteration)
        validated = not self.stopped and self.validate(iteration)
        self.stopped = self.stopped or self.interruption.agreed(iteration)
        every = self.config.checkpoint_every or self.config.validate_every
        if iteration % every == 0 or validated or self.stopped:
            self._save(iteration)
        if self.stopped:
            trainer.terminate()

    def validate(self, iteration: int) -> bool:
        """Validates if that is due and was not done yet, and saves the model if it is the best; gives whether it did.

        The best comes before the last: a run that is cut off in between goes on from the last and finds the best again.
        """
        due = iteration % self.config.validate_every == 0 or iteration == self.config.iterations
        if not due or self.validation.state.iteration == iteration:
            return False
        if self.validation(iteration) and idist.get_rank() == 0:
            save_checkpoint(self.snapshot(iteration), self.folder / BEST)
        return self.validation.state.iteration == iteration

    def finish(self, iteration: int) -> None:
        """Makes up for a validation that a run did not come to before it stopped."""
        if self.validate(iteration):
            self._save(iteration)
        self.stopped = self.interruption.agreed()

    def _save(self, iteration: int) -> None:
        if idist.get_rank() == 0:
            save_checkpoint(self.snapshot(iteration), self.folder / LAST, previous=self.folder / PREVIOUS)
