"""What a run writes down: the TensorBoard log and the validation overlays; and its progress bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from trainers.engine.engines import EvalStep, Evaluator, TrainStep
from trainers.foundation.progress import engine_progress
from trainers.report.pictures import magnify, outlined, overlay, save_picture, side_by_side, visible, with_legend
from trainers.report.similarity import similarity_matrix, similarity_picture
from trainers.scores.by_set import ONLY, ScoresBySet, mean_scores
from trainers.scores.metrics import SegmentationScores

LOG, OVERLAYS = "tensorboard", "overlays"
LOG_EVERY = 10
PICTURE_SIDE = 256
# TensorBoard sorts groups of tags and the tags in them, capitals first, and opens the first two groups.
SCORES, LOSS, PICTURES, CLASS_IOU = "1 validation", "2 loss", "3 validation pictures", "4 validation IoU"
LAYER_LOSS, OPTIMIZER, TEXT = "5 loss of each decoder layer", "6 optimizer", "7 text"


class Logbook:
    """Writes a run's numbers and pictures into its folder.

    Args:
        folder: The run's folder; the log goes to ``tensorboard`` in it, overlays to ``overlays``.
        overlays: How many of the first validation images of each data set are drawn.
        bands: Which bands of images are drawn, see `trainers.report.pictures.visible`.
        start_iteration: Where a resumed run goes on; what was logged after it is discarded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        overlays: int,
        bands: Sequence[int] = (1, 2, 3),
        start_iteration: int = 0,
    ) -> None:
        self.log_folder = folder / LOG
        self.overlay_folder = folder / OVERLAYS
        self.overlay_folder.mkdir(parents=True, exist_ok=True)
        self._overlays = overlays
        self._bands = bands
        self._drawn = 0
        self._writer = SummaryWriter(self.log_folder, purge_step=start_iteration + 1)

    def attach(self, trainer: Engine, evaluators: Mapping[str, Evaluator]) -> None:
        """Logs training steps, and draws validation images of each data set, by its name."""
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), self._log_step)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=LOG_EVERY), self._log_step)
        for name, evaluator in evaluators.items():
            evaluator.add_event_handler(Events.STARTED, self._start_drawing)
            evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._draw, trainer, name)

    def log_config(self, yaml: str) -> None:
        """Writes the resolved configuration as text."""
        indented = "".join(f"    {line}\n" for line in yaml.splitlines())  # a code block in Markdown
        self._writer.add_text("config", indented)

    def log_scores(self, sets: ScoresBySet, iteration: int) -> None:
        """Writes the scores of each data set, and their means where there are several."""
        for name, one in sets.items():
            self._log_totals(_group(SCORES, name), one.scores, iteration)
            for class_name, iou in zip(one.class_names, one.scores.class_iou, strict=True):
                if iou is not None:
                    self._writer.add_scalar(f"{_group(CLASS_IOU, name)}/{class_name}", iou, iteration)
        if ONLY not in sets:
            self._log_totals(SCORES, mean_scores(sets), iteration)

    def _log_totals(self, group: str, scores: SegmentationScores, iteration: int) -> None:
        """Writes the scores of all classes together."""
        self._writer.add_scalar(f"{group}/IoU, mean", scores.mean_iou, iteration)
        self._writer.add_scalar(f"{group}/frequency-weighted IoU", scores.frequency_weighted_iou, iteration)
        self._writer.add_scalar(f"{group}/pixel accuracy", scores.pixel_accuracy, iteration)
        self._writer.add_scalar(f"{group}/boundary IoU", scores.boundary_iou, iteration)
        if not math.isnan(scores.boundary_f_score):  # as it is where no label shows a contour
            self._writer.add_scalar(f"{group}/boundary F-score", scores.boundary_f_score, iteration)
        if scores.zero_shot is not None:
            for name, value in scores.zero_shot.named().items():
                if not math.isnan(value):
                    self._writer.add_scalar(f"{group}/IoU, {name}", value, iteration)

    def log_text(
        self, text_embeddings: Tensor, class_names: Sequence[str], iteration: int, *, name: str = ONLY
    ) -> None:
        """Draws the similarity of all prompts of all classes of a data set.

        Args:
            text_embeddings: (P, K+1, T), "none" last.
            class_names: K names in the order of the label ids.
            iteration: After which it is so.
            name: The data set's.
        """
        matrix = similarity_matrix(text_embeddings[:, :-1])
        tag = f"{_group(TEXT, name)}/similarity of prompts"
        self._writer.add_image(tag, similarity_picture(matrix, class_names), iteration)

    def close(self) -> None:
        """Finishes the log."""
        self._writer.close()

    def _log_step(self, trainer: Engine) -> None:
        step = cast("TrainStep", trainer.state.output)
        for tag, value in loss_tags(step).items():
            self._writer.add_scalar(tag, value, trainer.state.iteration)
        self._writer.add_scalar(f"{OPTIMIZER}/gradient norm", step.grad_norm, trainer.state.iteration)
        # Groups that differ in their decay only have one rate.
        rates = {group.removesuffix(", no decay"): rate for group, rate in step.learning_rates.items()}
        for part, rate in rates.items():
            self._writer.add_scalar(f"{OPTIMIZER}/learning rate of the {part}", rate, trainer.state.iteration)

    def _start_drawing(self) -> None:
        self._drawn = 0

    def _draw(self, evaluator: Evaluator, trainer: Engine, set_name: str) -> None:
        step, vocabulary = cast("EvalStep", evaluator.state.output), evaluator.vocabulary
        for index, name in enumerate(step.batch.names[: self._overlays - self._drawn]):
            picture = validation_picture(
                step, index, vocabulary.class_names, unseen=vocabulary.unseen_ids, bands=self._bands
            )
            self._writer.add_image(f"{_group(PICTURES, set_name)}/{name}", picture, trainer.state.iteration)
            path = self.overlay_folder / set_name / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)  # a name may be a path below the dataset's folder
            save_picture(picture, path)
            self._drawn += 1


def _group(group: str, name: str) -> str:
    """What the tags of a data set begin with in a group of tags."""
    return group if name == ONLY else f"{group}/{name}"


def loss_tags(step: TrainStep) -> dict[str, float]:
    """Readable TensorBoard tags of a step's losses: the total, each kind, and each decoder layer's share in it."""
    tags = {f"{LOSS}/all terms": step.loss}
    for name, value in step.terms.items():
        layer, _, kind = name.rpartition("/")
        if layer and not layer.isdecimal():  # of no decoder layer, but of the pixels
            layer, kind = "", f"{kind} of {layer}"
        tags[f"{LOSS}/{kind}"] = tags.get(f"{LOSS}/{kind}", 0.0) + value
        if layer:
            tags[f"{LAYER_LOSS}/{kind}, layer {layer}"] = value
    return tags


def validation_picture(
    step: EvalStep,
    index: int,
    class_names: Sequence[str],
    *,
    unseen: Sequence[int] = (),
    bands: Sequence[int] = (1, 2, 3),
) -> Tensor:
    """Image, truth and prediction side by side over a legend, (3, H', W') uint8; without the batch's padding.

    Small images are magnified, so that they are wide enough for the text. What shows, or is taken for, a class that
    training did not see is outlined.
    """
    height, width = step.batch.sizes[index]
    image = step.batch.images[index, :, :height, :width]
    if step.batch.dtypes[index] == torch.uint8 != image.dtype:
        image = (image * 255).round().to(torch.uint8)
    image = visible(image, bands)
    truth = step.batch.labels[index, :height, :width]
    prediction = step.prediction[index, :height, :width]
    seen_in = ((image, truth), (overlay(image, truth), truth), (overlay(image, prediction), prediction))
    pictures = [magnify(picture, PICTURE_SIDE) for picture, _ in seen_in]
    if unseen:
        ids = torch.tensor(unseen, device=truth.device)
        masks = [magnify(torch.isin(label, ids)[None], PICTURE_SIDE)[0] for _, label in seen_in]
        pictures = [outlined(picture, mask) for picture, mask in zip(pictures, masks, strict=True)]
        class_names = [f"{name} (unseen)" if k in unseen else name for k, name in enumerate(class_names)]
    picture = side_by_side(pictures, ("image", "truth", "prediction"))
    return with_legend(picture, torch.stack([truth, prediction]), class_names)


def attach_progress_bars(trainer: Engine, evaluators: Mapping[str, Evaluator]) -> ProgressBar:
    """Shows loss and remaining time in training, and the remaining time of validations; gives the former bar."""
    bar = engine_progress("train", lasting=True)
    bar.attach(trainer, output_transform=lambda step: {"loss": step.loss})
    for name, evaluator in evaluators.items():
        # Where lines stay, the one that says how a validation went is enough.
        engine_progress(f"validate {name}".rstrip(), as_lines=False).attach(evaluator)
    return bar
