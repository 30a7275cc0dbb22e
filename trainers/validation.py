"""What happens every so many iterations: scores, overlays, and the best and the last checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ignite.engine import Engine
from ignite.handlers import ProgressBar
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from trainers.checkpoints import Checkpoint, save_checkpoint
from trainers.config import Config
from trainers.data.batch import Batch
from trainers.errors import reading
from trainers.forward import Forward
from trainers.logbook import Logbook
from trainers.metrics import SegmentationScores, segmentation_scores

BEST, LAST = "best.pt", "last.pt"


def evaluate_model(evaluator: Engine, loader: DataLoader[Batch]) -> SegmentationScores:
    """Runs the evaluator once over the loader.

    Raises:
        UserError: An image or a label map cannot be read.
    """
    evaluator.run(reading(loader), max_epochs=1, epoch_length=len(loader))
    metrics = evaluator.state.metrics
    return segmentation_scores(metrics["confusion"], metrics["boundary"])


@dataclass
class Validation:
    """A handler for the trainer: validates, writes the scores down, and saves ``last.pt`` and ``best.pt``.

    Attributes:
        config: The resolved configuration.
        class_names: K names in the order of the label ids.
        folder: Where the checkpoints go.
        forward: The model.
        optimizer: Updates the weights.
        scheduler: Sets the learning rates.
        evaluator: See `trainers.engines.create_evaluator`.
        loader: The validation batches.
        logbook: The run's.
        bar: Says how the validation went.
        best_mean_iou: The best mean IoU so far; ``None`` before the first validation.
    """

    config: Config
    class_names: tuple[str, ...]
    folder: Path
    forward: Forward
    optimizer: Optimizer
    scheduler: LRScheduler
    evaluator: Engine
    loader: DataLoader[Batch]
    logbook: Logbook
    bar: ProgressBar
    best_mean_iou: float | None = None

    def __call__(self, trainer: Engine) -> None:
        """Validates after the trainer's current iteration."""
        iteration = trainer.state.iteration
        scores = evaluate_model(self.evaluator, self.loader)
        # Written this way, the first validation is the best one even where no pixel counts and its score is NaN.
        improved = self.best_mean_iou is None or not scores.mean_iou <= self.best_mean_iou
        if improved:
            self.best_mean_iou = scores.mean_iou
        self._save(iteration, scores, improved=improved)
        self.logbook.log_scores(scores, iteration)
        embeddings = getattr(self.forward.model, "text_embeddings", None)
        if embeddings is not None:
            self.logbook.log_text(embeddings, iteration)
        self.bar.log_message(
            f"iteration {iteration}: validation mIoU {scores.mean_iou:.4f}, pixel accuracy "
            f"{scores.pixel_accuracy:.4f}{', the best so far' if improved else ''}"
        )

    def _save(self, iteration: int, scores: SegmentationScores, *, improved: bool) -> None:
        assert self.best_mean_iou is not None
        checkpoint = Checkpoint(
            config=self.config,
            class_names=self.class_names,
            iteration=iteration,
            scores=scores,
            best_mean_iou=self.best_mean_iou,
            model=self.forward.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
        )
        # The best comes first: a run that is cut off in between goes on from the last and finds the best again.
        if improved:
            save_checkpoint(checkpoint, self.folder / BEST)
        save_checkpoint(checkpoint, self.folder / LAST)
