from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import checkpoints
from trainers.checkpoints import Checkpoint, check_same_model, load_checkpoint, save_checkpoint
from trainers.config import Config
from trainers.errors import UserError
from trainers.metrics import SegmentationScores


def checkpoint(iteration: int = 7) -> Checkpoint:
    return Checkpoint(
        config=Config(),
        class_names=("sky", "road"),
        iteration=iteration,
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
        best_mean_iou=0.625,
        model={"weight": torch.arange(4096.0)},
        optimizer={"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "name": "decoder"}]},
        scheduler={"last_epoch": 7},
    )


def test_round_trip(tmp_path: Path) -> None:
    save_checkpoint(checkpoint(), tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(loaded.model.pop("weight"), torch.arange(4096.0))
    assert loaded == replace(checkpoint(), model={})
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(checkpoint(iteration=7), path)

    def crash(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", crash)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(checkpoint(iteration=8), path)
    assert load_checkpoint(path).iteration == 7


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


def test_a_checkpoint_of_another_model_names_both() -> None:
    saved = checkpoint()
    check_same_model(saved, Path("last.pt"), model=saved.config.model, class_names=["sky", "road"])
    other = replace(saved.config.model, arch="fpn", encoder_name="resnet18")
    with pytest.raises(UserError, match=r"mtaclip on tu-tf_efficientnet_lite0 with 2 classes.*fpn on resnet18 with 3"):
        check_same_model(saved, Path("last.pt"), model=other, class_names=["sky", "road", "car"])
    with pytest.raises(UserError, match=r"differ in class names\."):
        check_same_model(saved, Path("last.pt"), model=saved.config.model, class_names=["sky", "sea"])
