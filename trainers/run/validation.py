"""Scores of the model on the validation images, every so many iterations."""

from __future__ import annotations

from dataclasses import dataclass

import ignite.distributed as idist
from ignite.engine import Events
from ignite.handlers import ProgressBar
from torch.utils.data import DataLoader

from trainers.data.batch import Batch
from trainers.engine.engines import Evaluator
from trainers.engine.forward import Forward
from trainers.foundation.errors import reading
from trainers.report.logbook import Logbook
from trainers.run.checkpoints import ValidationState
from trainers.run.interruption import Interruption
from trainers.scores.metrics import SegmentationScores, segmentation_scores


def evaluate_model(evaluator: Evaluator, loader: DataLoader[Batch]) -> SegmentationScores:
    """Runs the evaluator once over the loader.

    Raises:
        UserError: An image or a label map cannot be read.
    """
    _look_at_all(evaluator, loader)
    return _scores(evaluator)


def _look_at_all(evaluator: Evaluator, loader: DataLoader[Batch]) -> None:
    evaluator.run(reading(loader), max_epochs=1, epoch_length=len(loader))


def _scores(evaluator: Evaluator) -> SegmentationScores:
    metrics, unseen = evaluator.state.metrics, evaluator.vocabulary.unseen_ids
    return segmentation_scores(
        metrics["confusion"], metrics["boundary"], unseen_alone=metrics.get("unseen"), unseen=unseen
    )


@dataclass
class Validation:
    """Validates, and remembers what was best.

    Attributes:
        forward: The model that is validated.
        evaluator: Runs it.
        loader: The validation batches of this process.
        interruption: Ends a validation of a single process at once.
        logbook: The run's; ``None`` in all processes but the first.
        bar: Says how the validation went; ``None`` in all processes but the first.
        state: What the validations gave so far.
    """

    forward: Forward
    evaluator: Evaluator
    loader: DataLoader[Batch]
    interruption: Interruption
    logbook: Logbook | None
    bar: ProgressBar | None
    state: ValidationState

    def __post_init__(self) -> None:
        """Lets the evaluator look at the interruption."""
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._stop)

    def __call__(self, iteration: int) -> bool:
        """Validates after so many iterations; gives whether the model is the best so far.

        A validation that was interrupted counts as not made.
        """
        self._share_statistics()
        _look_at_all(self.evaluator, self.loader)
        if idist.get_world_size() == 1 and self.interruption.requested:
            return False  # an evaluator that was ended has no metrics
        scores = _scores(self.evaluator)
        best = self.state.best_score
        # Written this way, the first validation is the best one even where no pixel counts and its score is NaN.
        improved = best is None or not scores.decisive <= best
        best = scores.decisive if improved else best
        self.state = ValidationState(iteration=iteration, scores=scores, best_score=best)
        self._log(iteration, scores, improved=improved)
        return improved

    def _log(self, iteration: int, scores: SegmentationScores, *, improved: bool) -> None:
        if self.logbook is not None:
            self.logbook.log_scores(scores, iteration)
            embeddings = getattr(self.evaluator.forward.model, "text_embeddings", None)
            if embeddings is not None:
                self.logbook.log_text(embeddings, iteration)
        if self.bar is not None:
            said = f"validation mIoU {scores.mean_iou:.4f}{scores.coverage}"
            said += f", pixel accuracy {scores.pixel_accuracy:.4f}"
            if scores.zero_shot is not None:
                said += "".join(f", {name} {value:.4f}" for name, value in scores.zero_shot.named().items())
            self.bar.log_message(f"iteration {iteration}: {said}{', the best so far' if improved else ''}")

    def _share_statistics(self) -> None:
        """Gives all processes the buffers of the first: norms count on their own between two steps."""
        if idist.get_world_size() > 1:
            for buffer in self.forward.model.buffers():
                idist.broadcast(buffer, src=0)

    def _stop(self) -> None:
        # Several processes would have to stop at the same image: they validate to the end.
        if idist.get_world_size() == 1 and self.interruption.requested:
            self.evaluator.terminate()
