"""Runs of the trainer that take seconds, and what they need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainers import train

TINY = [
    "--data.dataset=shapes",
    "--data.size=40",
    "--data.train_length=6",
    "--data.val_length=3",
    "--data.crop_size=[32,32]",
    "--optim.warmup_iterations=1",
    "--train.iterations=4",
    "--train.batch_size=2",
    "--train.validate_every=2",
    "--train.overlays=2",
    "--train.device=cpu",
    "--train.precision=float32",
    "--model.encoder_name=resnet18",
    "--model.encoder_weights=null",
]
MTACLIP = [
    "--model.num_queries=12",
    "--model.decoder_channels=64",
    "--model.pixel_decoder_layers=1",
    "--model.pixel_decoder_ffn=32",
    "--model.decoder_layers=1",
    "--model.decoder_ffn=32",
    "--loss.num_points=64",
]


def run_training(folder: Path, *options: str) -> Path:
    train.main([*TINY, "--train.output", str(folder), *options])
    return folder


def failure(main: object, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr that a command ends with; its exit code is 2."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))  # type: ignore[operator]
    assert stopped.value.code == 2
    *_, line = capsys.readouterr().err.rstrip().splitlines()
    assert line.startswith("error: ")
    return line


def write_folder(root: Path, *, labels: Sequence[int]) -> None:
    """A dataset of three images in each split whose label maps hold ``labels`` from left to right."""
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "annotations" / split).mkdir(parents=True)
        for index in range(3):
            label = np.array(labels, dtype=np.uint8).repeat(20)[None].repeat(24 + index, 0)
            Image.fromarray(label).save(root / "annotations" / split / f"{index}.png")
            Image.fromarray(np.stack([label * 60] * 3, axis=-1)).save(root / "images" / split / f"{index}.png")
    (root / "classes.txt").write_text("sky\nroad\n")
