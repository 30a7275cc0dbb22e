"""What a model says of classes that it was never trained on, by each source of its scores alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor

from mtaclip_plugin import MTACLIP
from trainers.assemble import prepare
from trainers.foundation.errors import reading
from trainers.run.checkpoints import Checkpoint
from trainers.scores.calibration import CalibrationCounts, CalibrationPoint
from trainers.scores.metrics import class_iou
from trainers.scores.zero_shot import seen_and_unseen

ALL = "all"
"""All sources together, as the model is configured."""


@dataclass(frozen=True)
class SourceScores:
    """Mean IoU by one source of scores, each in [0, 1]; NaN where no pixel counts.

    Attributes:
        curve: of seen and unseen classes where all may be predicted, by calibration, in ascending order from 0.
        fitted: the same with the calibration that serves one half of the images best applied to the other half; its
            own calibration is the larger of the two.
        seen_alone: of the seen classes on their pixels, where only the seen one with the highest score counts.
        unseen_alone: the same of the unseen classes. The model knows all names in both.
    """

    curve: tuple[CalibrationPoint, ...]
    fitted: CalibrationPoint
    seen_alone: float
    unseen_alone: float

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made a dictionary of."""
        curve = tuple(CalibrationPoint(**point) for point in content["curve"])
        return cls(curve, CalibrationPoint(**content["fitted"]), content["seen_alone"], content["unseen_alone"])


@dataclass(frozen=True)
class UnseenScores:
    """What `score_sources` found.

    Attributes:
        sources: the scores by name of the source.
    """

    sources: Mapping[str, SourceScores]


def load_unseen_scores(file: Path) -> UnseenScores:
    """Reads what `benchmarks.comparison.records.save_json` wrote."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return UnseenScores({name: SourceScores.from_dict(scores) for name, scores in content["sources"].items()})


def score_sources(checkpoint: Checkpoint) -> UnseenScores:
    """Looks at the validation images by each source.

    Args:
        checkpoint: of a model that was trained without some of the classes.

    Raises:
        UserError: The dataset is not there, or an image cannot be read.
    """
    prepared = prepare(checkpoint, root=None, split=None, device=checkpoint.config.train.device)
    forward, unseen = prepared.forward, prepared.vocabulary.unseen_ids
    num_classes = len(prepared.vocabulary.class_names)
    halves: dict[str, tuple[CalibrationCounts, CalibrationCounts]] = {}
    place = 0
    for batch in reading(prepared.loader):
        every_label = batch.labels_on(forward.device)
        for index, (height, width) in enumerate(batch.sizes):
            image = batch.images[index : index + 1, :, :height, :width]
            labels = every_label[index : index + 1, :height, :width]
            for source in _each_source(forward.model):
                if source not in halves:
                    halves[source] = CalibrationCounts(num_classes, unseen), CalibrationCounts(num_classes, unseen)
                halves[source][place % 2].update(forward.scores(image), labels)
            place += 1
    return UnseenScores({source: _scores(first, second, unseen) for source, (first, second) in halves.items()})


def _each_source(model: SegmentationModel) -> Iterator[str]:
    """The names of a model's sources, with its scores made of the one that was named last."""
    if not isinstance(model, MTACLIP):
        yield ALL
        return
    configured = replace(model.scoring, calibration=0.0, trained_text=0.0, untrained_text=1.0)
    sources = ("query_scores", "text_masks", "pixel_scores")
    nothing = dict.fromkeys(sources, 0.0)
    alone = {name: replace(configured, **nothing | {name: 1.0}) for name in sources if getattr(configured, name)}
    ways = {ALL: replace(model.scoring, calibration=0.0)}
    if queries := alone.get("query_scores"):
        ways["queries, by text"] = replace(queries, classification="text")
        ways["queries, per name"] = replace(queries, classification="per_name")
        if "pixel_scores" in alone:
            ways["queries, by pixels"] = replace(queries, classification="pixels")
    if "text_masks" in alone:
        ways["text masks"] = alone["text_masks"]
    if "pixel_scores" in alone:
        ways["pixels"] = alone["pixel_scores"]
    chosen = model.scoring
    try:
        for name, scoring in ways.items():
            if name == ALL or scoring != ways[ALL]:
                model.scoring = scoring
                yield name
    finally:
        model.scoring = chosen


def _scores(first: CalibrationCounts, second: CalibrationCounts, unseen: tuple[int, ...]) -> SourceScores:
    of_first, of_second = _best(first.curve(unseen)), _best(second.curve(unseen))
    applied = first.confusions()[of_second] + second.confusions()[of_first]
    both = first + second
    fitted = CalibrationPoint(both.calibrations[max(of_first, of_second)], *_means(applied, unseen))
    seen_alone, _, _ = _means(both.trained_alone(), unseen)
    _, unseen_alone, _ = _means(both.untrained_alone(), unseen)
    return SourceScores(both.curve(unseen), fitted, seen_alone, unseen_alone)


def _means(confusion: Tensor, unseen: tuple[int, ...]) -> tuple[float, float, float]:
    return seen_and_unseen(class_iou(confusion), unseen)


def _best(curve: tuple[CalibrationPoint, ...]) -> int:
    """Place of the calibration with the highest harmonic mean; of equal ones the least."""
    return max(range(len(curve)), key=lambda index: curve[index].harmonic_mean_iou)
