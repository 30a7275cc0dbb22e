"""A search for what names masks best where some classes were never trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from torch.utils.data import DataLoader

from mtaclip_plugin import MTACLIP
from mtaclip_plugin.inference import Scoring
from trainers.data.batch import Batch
from trainers.engine.forward import Forward
from trainers.foundation.errors import reading
from trainers.foundation.progress import progress
from trainers.scores.calibration import CalibrationCounts, CalibrationPoint

TRAINED_TEXT: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
UNTRAINED_TEXT: Final = (1.0, 0.5)


@dataclass(frozen=True)
class Candidate:
    """A way of naming masks, with what it gives.

    Attributes:
        scoring: The way, without a calibration.
        curve: The scores by calibration.
    """

    scoring: Scoring
    curve: tuple[CalibrationPoint, ...]

    @property
    def best(self) -> CalibrationPoint:
        """The calibration with the highest harmonic mean; of equal ones the least."""
        return max(self.curve, key=lambda point: point.harmonic_mean_iou)


def namings(scoring: Scoring) -> Iterator[Scoring]:
    """The ways of naming that are tried: ``"per_name"`` with several weights, where queries have a part in the scores.

    Args:
        scoring: What the rest of the scores is made of. If pixels name its masks, that is tried, too.
    """
    if not scoring.query_scores or scoring.classification == "pixels":
        yield replace(scoring, calibration=0.0)
    if scoring.query_scores:
        named = replace(scoring, classification="per_name", calibration=0.0)
        for trained, untrained in product(TRAINED_TEXT, UNTRAINED_TEXT):
            yield replace(named, trained_text=trained, untrained_text=untrained)


def search_calibration(
    forward: Forward, model: MTACLIP, loader: DataLoader[Batch], unseen: tuple[int, ...]
) -> list[Candidate]:
    """Looks at all images by each way of naming, once for all calibrations.

    Args:
        forward: The way through the model.
        model: Has untrained names; its scoring is as before in the end.
        loader: The images.
        unseen: Label ids of the unseen classes.

    Returns:
        The candidates, the best first.

    Raises:
        UserError: An image or a label map cannot be read.
    """
    chosen, names = model.scoring, list(model.class_names or ())
    untrained = [names.index(name) for name in model.untrained_names]
    counts = {scoring: CalibrationCounts(len(names), untrained) for scoring in namings(chosen)}
    try:
        for batch in progress(reading(loader), title="search", total=len(loader)):
            labels = batch.labels_on(forward.device)
            for scoring, counted in counts.items():
                model.scoring = scoring
                for index, (height, width) in enumerate(batch.sizes):
                    image = batch.images[index : index + 1, :, :height, :width]
                    counted.update(forward.scores(image), labels[index : index + 1, :height, :width])
    finally:
        model.scoring = chosen
    candidates = [Candidate(scoring, counted.curve(unseen)) for scoring, counted in counts.items()]
    return sorted(candidates, key=lambda candidate: candidate.best.harmonic_mean_iou, reverse=True)
