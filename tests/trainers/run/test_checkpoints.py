from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainers.foundation.errors import UserError
from trainers.options.config import Config
from trainers.run.checkpoints import (
    Checkpoint,
    ValidationState,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)
from trainers.scores.metrics import SegmentationScores


def checkpoint(iteration: int = 7) -> Checkpoint:
    return Checkpoint(
        config=Config(),
        class_names=("sky", "road"),
        iteration=iteration,
        validation=ValidationState(
            iteration=6,
            scores=SegmentationScores(
                mean_iou=0.5,
                frequency_weighted_iou=0.5,
                pixel_accuracy=0.75,
                boundary_iou=0.25,
                boundary_f_score=0.375,
                class_iou=(0.5, None),
                class_boundary_iou=(0.25, None),
                class_boundary_f_score=(0.375, None),
            ),
            best_score=0.625,
        ),
        model={"weight": torch.arange(4096.0)},
        optimizer={"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "name": "decoder"}]},
        average=None,
        scheduler={"last_epoch": 7},
        scaler={},
    )


def test_round_trip(tmp_path: Path) -> None:
    save_checkpoint(checkpoint(), tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(loaded.model.pop("weight"), torch.arange(4096.0))
    assert loaded == replace(checkpoint(), model={})
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_before_the_first_validation(tmp_path: Path) -> None:
    fresh = replace(checkpoint(), validation=ValidationState(), average={"weight": torch.ones(2)})
    save_checkpoint(fresh, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert loaded.validation == ValidationState() and loaded.weights["weight"].tolist() == [1, 1]


FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.trainers.run.test_checkpoints import checkpoint
from trainers.run.checkpoints import save_checkpoint
from trainers.foundation.errors import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    save_checkpoint(checkpoint(iteration=8), Path(sys.argv[1]), previous=Path(sys.argv[2]))
except UserError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(checkpoint(iteration=7), path)
    command = [sys.executable, "-c", FILL_THE_DISK, str(path), str(tmp_path / "previous.pt")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{path} could not be written (") and "free space on its disk" in said
    assert load_checkpoint(path).iteration == 7
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_the_checkpoint_before_is_kept_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_latest(tmp_path) is None
    for iteration in (7, 8):
        save_checkpoint(checkpoint(iteration), tmp_path / "last.pt", previous=tmp_path / "previous.pt")
    latest = load_latest(tmp_path)
    assert latest is not None and latest.iteration == 8
    damage(tmp_path / "last.pt", "cut off")
    latest = load_latest(tmp_path)
    assert latest is not None and latest.iteration == 7
    assert "last.pt cannot be read" in capsys.readouterr().err
    # The damaged one does not take the good one's place when the run goes on, and is killed at once.
    assert {file.name for file in tmp_path.iterdir()} == {"last.pt.damaged", "previous.pt"}
    damage(tmp_path / "previous.pt", "empty")
    with pytest.raises(UserError, match=r"No checkpoint in .* can be read: .*previous\.pt"):
        load_latest(tmp_path)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a checkpoint")
    elif how == "flipped bit":
        place = content.index(torch.arange(4096.0).numpy().tobytes()) + 999
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


@pytest.mark.parametrize("how", ["cut off", "empty", "text", "flipped bit"])
def test_a_damaged_file_is_named(tmp_path: Path, how: str) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(checkpoint(), path)
    damage(path, how)
    with pytest.raises(UserError, match=r"last\.pt cannot be read"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*best\.pt"):
        load_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize("content", [{"weight": torch.zeros(1)}, [1, 2]])
def test_a_file_of_another_program_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt is no checkpoint of trainers\.train"):
        load_checkpoint(tmp_path / "other.pt")
