"""Checkpoints: all that a run needs to go on, in one file that is either whole or not there."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from zipfile import ZipFile

import torch
from torch import Tensor

from trainers.engine.vocabulary import Vocabulary
from trainers.foundation.errors import UserError
from trainers.foundation.files import save_whole
from trainers.options.config import Config
from trainers.options.parsing import config_from_yaml, config_to_yaml
from trainers.scores.by_set import ScoresBySet, SetScores
from trainers.scores.metrics import SegmentationScores

BEST, LAST, PREVIOUS = "best.pt", "last.pt", "previous.pt"


@dataclass(frozen=True)
class ValidationState:
    """What the validations of a run gave so far.

    Attributes:
        iteration: Iterations that were done before the last one; 0 before the first.
        scores: What the last one gave, of several data sets their mean; ``None`` before the first.
        best_score: The best `SegmentationScores.decisive` so far; ``None`` before the first.
        sets: What the last one gave of each data set by its name, where there are several.
    """

    iteration: int = 0
    scores: SegmentationScores | None = None
    best_score: float | None = None
    sets: ScoresBySet = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made a dictionary of, also in the time when the best score was the mean IoU."""
        scores = content["scores"]
        return cls(
            iteration=content["iteration"],
            scores=None if scores is None else SegmentationScores.from_dict(scores),
            best_score=content["best_score"] if "best_score" in content else content["best_mean_iou"],
            sets={name: SetScores.from_dict(one) for name, one in content.get("sets", {}).items()},
        )


@dataclass(frozen=True)
class Checkpoint:
    """A run after some iteration.

    There are no states of random generators: all that is random derives from the seed and the iteration.

    Attributes:
        config: The resolved configuration.
        class_names: K names in the order of the label ids, those of unseen classes among them.
        iteration: Iterations that are done.
        validation: What the validations so far gave.
        model: The state dict of the model that is trained.
        average: That of the moving average of its weights; ``None`` where the run has none.
        optimizer: The optimizer's.
        scheduler: The scheduler's.
        scaler: The gradient scaler's; empty where nothing is scaled.
        bank: Text embeddings of all classes, see `trainers.engine.vocabulary.Vocabulary`.
        bank_encoder: What made them.
    """

    config: Config
    class_names: tuple[str, ...]
    iteration: int
    validation: ValidationState
    model: dict[str, Any]
    average: dict[str, Any] | None
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any]
    bank: Tensor | None = None
    bank_encoder: str | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes with their text."""
        unseen = tuple(name for name in self.class_names if name in self.config.data.unseen_names)
        bank = self.weights.get("prompts.embeddings") if self.bank is None else self.bank
        return Vocabulary(self.class_names, unseen, bank, self.bank_encoder)

    @property
    def weights(self) -> dict[str, Any]:
        """The state dict of the model that is validated: the average where there is one."""
        return self.model if self.average is None else self.average


_FIELDS = Checkpoint.__dataclass_fields__.keys()
_REQUIRED = _FIELDS - {"bank", "bank_encoder"}
"""What checkpoints have always had."""


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, previous: Path | None = None) -> None:
    """Writes ``path`` so that a crash at any moment leaves the old file or the new one, never a part of it.

    Args:
        checkpoint: What to write.
        path: Where to.
        previous: Where the file goes that was there before; if not given, it is replaced.

    Raises:
        UserError: It cannot be written; what was there before still is.
    """
    content = vars(checkpoint) | {
        "config": config_to_yaml(checkpoint.config),
        "validation": asdict(checkpoint.validation),
    }
    save_whole(content, path, previous=previous)


def load_latest(folder: Path) -> Checkpoint | None:
    """The last checkpoint of a run that is whole, or ``None`` where there is none at all.

    Of one that is damaged a line on stderr tells, and it is renamed; the one before it is then taken.

    Raises:
        UserError: All that there are are damaged.
    """
    reason = None
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            return load_checkpoint(path)
        except UserError as error:
            print(f"warning: {error}", file=sys.stderr)
            path.replace(path.with_name(f"{path.name}.damaged"))  # or it would take the place of the one before it
            reason = error
    if reason is not None:
        raise UserError(
            f"No checkpoint in {folder} can be read: {reason} Remove the folder, or choose another --train.output."
        ) from reason
    return None


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
    except Exception as error:  # what a damaged file ends in, depends on the byte
        raise UserError(f"The checkpoint {path} cannot be read: it is cut off, damaged or none.") from error
    if damaged:
        raise UserError(f"The checkpoint {path} cannot be read: its part {damaged} is damaged.")
    if not isinstance(content, dict) or not _REQUIRED <= content.keys() <= _FIELDS:
        raise UserError(f"{path} is no checkpoint of trainers.train; give the path of a best.pt or last.pt.")
    try:
        read = {
            "config": config_from_yaml(content["config"]),
            "validation": ValidationState.from_dict(content["validation"]),
        }
    except Exception as error:  # whoever wrote the file may have put anything into it
        raise UserError(f"{path} is no checkpoint of this version of trainers.train ({error}).") from error
    return Checkpoint(**content | read)
