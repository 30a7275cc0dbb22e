"""What a training of a comparison gave, and what a model costs: kept as JSON, one small file each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Scores:
    """How good a model is on the validation images, each in [0, 1]; ``None`` where no pixel counts.

    Attributes:
        mean_iou: mean of the IoU over the classes.
        boundary_iou: the same of the IoU near contours.
        class_iou: IoU of each class by name, in the order of the class ids.
    """

    mean_iou: float | None
    boundary_iou: float | None
    class_iou: Mapping[str, float | None]

    def mean_over(self, names: Sequence[str]) -> float | None:
        """Mean IoU over some of the classes, without those that occur nowhere."""
        known = [value for name in names if (value := self.class_iou[name]) is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Record:
    """What one training gave.

    Attributes:
        contender: what was trained, e.g. "mtaclip" or a step of a ladder.
        encoder: name of its encoder and of the weights that it started with.
        seed: of everything random in it.
        scores: those after the last step; no checkpoint is picked by its scores.
        evaluations: other scores of the same weights by name, e.g. of another classification, or on one of several
            data sets.
        curve: (iteration, mean IoU) of each validation.
        config: YAML of all options.
        machine: that trained, in words.
    """

    contender: str
    encoder: str
    seed: int
    scores: Scores
    evaluations: Mapping[str, Scores]
    curve: tuple[tuple[int, float], ...]
    config: str
    machine: str

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made a dictionary of."""
        return cls(
            **{
                **content,
                "scores": Scores(**content["scores"]),
                "evaluations": {name: Scores(**scores) for name, scores in content["evaluations"].items()},
                "curve": tuple((iteration, value) for iteration, value in content["curve"]),
            }
        )


@dataclass(frozen=True)
class Costs:
    """What a model costs.

    Attributes:
        encoder_parameters: numbers in the encoder.
        decoder_parameters: numbers in all the rest.
        flops: operations of one validation image's forward pass, a multiplication and an addition are two.
        latency: median seconds from one validation image to its label map.
        step_seconds: median seconds of a training step.
        step_bytes: most bytes of tensors that live at any moment of a training step.
        machine: that the seconds are of, in words.
    """

    encoder_parameters: int
    decoder_parameters: int
    flops: int
    latency: float
    step_seconds: float
    step_bytes: int
    machine: str


def load_record(path: Path) -> Record:
    """Reads what `save_json` wrote."""
    return Record.from_dict(json.loads(path.read_text(encoding="utf-8")))


def save_json(value: DataclassInstance, path: Path) -> None:
    """Writes a file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(asdict(value), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
