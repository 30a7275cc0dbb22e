"""What a run says at its end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from trainers.data.batch import SegmentationDataset
from trainers.options.sets_config import GENERATED
from trainers.report.logbook import OVERLAYS
from trainers.report.pictures import save_picture
from trainers.run.checkpoints import BEST, LAST, Checkpoint
from trainers.scores.by_set import ONLY, SetScores, format_sets

SCENES = "scenes"
NAMED = 3
"""How many of the classes that training did not see the command for prediction names."""


def summarize(best: Checkpoint, folder: Path, val_sets: Mapping[str, SegmentationDataset]) -> str:
    """The best checkpoint's table of classes, and how to look at what the run left.

    Of a generated dataset some scenes are written, so that there is something to predict.

    Args:
        best: The best checkpoint.
        folder: The run's.
        val_sets: The validation images of each data set, by its name.
    """
    assert best.validation.scores is not None
    sets = best.validation.sets or {ONLY: SetScores(best.class_names, best.validation.scores)}
    images, names = "IMAGE ...", ""
    if best.config.data.dataset in GENERATED:
        shown = _write_scenes(val_sets[ONLY], folder / SCENES, count=best.config.train.overlays)
        images = str(folder / SCENES)
        never_seen = [best.class_names[k] for k in best.vocabulary.unseen_ids if k in shown][:NAMED]
        if never_seen:
            names = f" --names {shlex.quote(','.join([best.class_names[0], *never_seen]))}"
    return "\n".join(
        [
            f"\nBest validation, after iteration {best.iteration}:",
            format_sets(sets),
            "",
            f"Checkpoint:   {folder / BEST}  (the last one: {folder / LAST})",
            f"Overlays:     {folder / OVERLAYS}  (image | truth | prediction, of the last validation)",
            f"TensorBoard:  tensorboard --logdir {folder.parent}",
            f"Predict:      python -m trainers.predict --checkpoint {folder / BEST} {images} --output DIR{names}",
        ]
    )


def _write_scenes(dataset: SegmentationDataset, folder: Path, *, count: int) -> set[int]:
    """Writes the first images as PNGs; gives the label ids that they show."""
    folder.mkdir(exist_ok=True)
    shown: set[int] = set()
    for index in range(min(count, len(dataset))):
        sample = dataset[index]
        save_picture(sample.image, folder / f"{sample.name}.png")
        shown.update(sample.label.unique().tolist())
    return shown
