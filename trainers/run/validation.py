"""Scores of the model on the validation images, every so many iterations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from torch.utils.data import DataLoader

from trainers.data.batch import Batch
from trainers.engine.engines import Evaluator
from trainers.engine.forward import Forward
from trainers.foundation.errors import reading
from trainers.report.logbook import Logbook
from trainers.run.checkpoints import ValidationState
from trainers.run.interruption import Interruption
from trainers.scores.by_set import ONLY, ScoresBySet, SetScores, mean_scores
from trainers.scores.metrics import SegmentationScores, segmentation_scores


@dataclass(frozen=True)
class Look:
    """The images of a data set, and what looks at them.

    Attributes:
        evaluator: Knows the model by the data set's own classes.
        loader: The batches of this process.
    """

    evaluator: Evaluator
    loader: DataLoader[Batch]

    def run(self) -> None:
        """Looks at all images once.

        Raises:
            UserError: An image or a label map cannot be read.
        """
        self.evaluator.run(reading(self.loader), max_epochs=1, epoch_length=len(self.loader))

    @property
    def scores(self) -> SetScores:
        """What the last look gave."""
        return SetScores(self.evaluator.vocabulary.class_names, _scores(self.evaluator))


def evaluate_model(evaluator: Evaluator, loader: DataLoader[Batch]) -> SegmentationScores:
    """Runs the evaluator once over the loader.

    Raises:
        UserError: An image or a label map cannot be read.
    """
    look = Look(evaluator, loader)
    look.run()
    return look.scores.scores


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
        looks: How each data set is looked at, by its name.
        interruption: Ends a validation of a single process at once.
        logbook: The run's; ``None`` in all processes but the first.
        bar: Says how the validation went; ``None`` in all processes but the first.
        state: What the validations gave so far.
    """

    forward: Forward
    looks: Mapping[str, Look]
    interruption: Interruption
    logbook: Logbook | None
    bar: ProgressBar | None
    state: ValidationState

    def __post_init__(self) -> None:
        """Lets the evaluators look at the interruption."""
        for look in self.looks.values():
            look.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._stop)

    def __call__(self, iteration: int) -> bool:
        """Validates after so many iterations; gives whether the model is the best so far.

        A validation that was interrupted counts as not made.
        """
        self._share_statistics()
        for look in self.looks.values():
            look.run()
            if idist.get_world_size() == 1 and self.interruption.requested:
                return False  # an evaluator that was ended has no metrics
        sets = {name: look.scores for name, look in self.looks.items()}
        scores = mean_scores(sets)
        best = self.state.best_score
        # Written this way, the first validation is the best one even where no pixel counts and its score is NaN.
        improved = best is None or not scores.decisive <= best
        best = scores.decisive if improved else best
        several = {} if ONLY in sets else sets
        self.state = ValidationState(iteration=iteration, scores=scores, best_score=best, sets=several)
        self._log(iteration, scores, sets, improved=improved)
        return improved

    def _log(self, iteration: int, scores: SegmentationScores, sets: ScoresBySet, *, improved: bool) -> None:
        if self.logbook is not None:
            self.logbook.log_scores(sets, iteration)
            for name, look in self.looks.items():
                embeddings = getattr(look.evaluator.forward.model, "text_embeddings", None)
                if embeddings is not None:
                    self.logbook.log_text(embeddings, look.evaluator.vocabulary.class_names, iteration, name=name)
        if self.bar is not None:
            said = f"validation mIoU {100 * scores.mean_iou:.1f} %{scores.coverage}"
            if self.state.sets:
                each = (f"{name} {100 * one.scores.mean_iou:.1f}" for name, one in sets.items())
                said = f"validation mIoU {100 * scores.mean_iou:.1f} % ({', '.join(each)})"
            said += f", pixel accuracy {100 * scores.pixel_accuracy:.1f}"
            if scores.zero_shot is not None:
                said += "".join(f", {name} {100 * value:.1f}" for name, value in scores.zero_shot.named().items())
            self.bar.log_message(f"iteration {iteration}: {said}{', the best so far' if improved else ''}")

    def _share_statistics(self) -> None:
        """Gives all processes the buffers of the first: norms count on their own between two steps."""
        if idist.get_world_size() > 1:
            for buffer in self.forward.model.buffers():
                idist.broadcast(buffer, src=0)

    def _stop(self, evaluator: Engine) -> None:
        # Several processes would have to stop at the same image: they validate to the end.
        if idist.get_world_size() == 1 and self.interruption.requested:
            evaluator.terminate()
