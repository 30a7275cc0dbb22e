"""Checkpoints: all that a run needs to go on, in one file that is either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from trainers.config import Config, ModelConfig, config_from_yaml, config_to_yaml
from trainers.errors import UserError
from trainers.metrics import SegmentationScores


@dataclass(frozen=True)
class Checkpoint:
    """A run after some iteration.

    There are no states of random generators: all that is random derives from the seed and the iteration.

    Attributes:
        config: The resolved configuration.
        class_names: K names in the order of the label ids.
        iteration: Iterations that are done.
        scores: What the validation after this iteration gave.
        best_mean_iou: The best mean IoU so far, this validation's included.
        model: The model's state dict.
        optimizer: The optimizer's.
        scheduler: The scheduler's.
    """

    config: Config
    class_names: tuple[str, ...]
    iteration: int
    scores: SegmentationScores
    best_mean_iou: float
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes ``path`` so that a crash at any moment leaves the old file or the new one, never a part of it."""
    content = vars(checkpoint) | {
        "config": config_to_yaml(checkpoint.config),
        "scores": asdict(checkpoint.scores),
    }
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads what `save_checkpoint` wrote, onto the CPU.

    Raises:
        UserError: The file is missing, cut off or damaged, or no checkpoint of this program.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint at {path}; give the path of a best.pt or last.pt.")
    try:
        with ZipFile(path) as archive:  # torch.load checks no checksum
            damaged = archive.testzip()
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except (BadZipFile, RuntimeError, UnpicklingError, OSError) as error:
        raise UserError(f"The checkpoint {path} cannot be read: it is cut off, damaged or none.") from error
    if damaged:
        raise UserError(f"The checkpoint {path} cannot be read: its part {damaged} is damaged.")
    if not isinstance(content, dict) or content.keys() != Checkpoint.__dataclass_fields__.keys():
        raise UserError(f"{path} is no checkpoint of trainers.train; give the path of a best.pt or last.pt.")
    return Checkpoint(
        **content
        | {
            "config": config_from_yaml(content["config"]),
            "scores": SegmentationScores(**content["scores"]),
        }
    )


def check_same_model(checkpoint: Checkpoint, path: Path, *, model: ModelConfig, class_names: Sequence[str]) -> None:
    """Makes sure that a run can go on from a checkpoint.

    Raises:
        UserError: The checkpoint is one of another model, or of other classes.
    """
    theirs, ours = asdict(checkpoint.config.model), asdict(model)
    differences = [f"model.{name}" for name in ours if ours[name] != theirs[name]]
    if checkpoint.class_names != tuple(class_names):
        differences.append("class names")
    if differences:
        raise UserError(
            f"The checkpoint {path} is one of another model: it holds "
            f"{_describe(checkpoint.config.model, checkpoint.class_names)}, this run has "
            f"{_describe(model, class_names)}; they differ in {', '.join(differences)}."
        )


def _describe(model: ModelConfig, class_names: Sequence[str]) -> str:
    return f"{model.arch} on {model.encoder_name} with {len(class_names)} classes"
