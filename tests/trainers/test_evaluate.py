from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mtaclip_plugin import Preprocessing, preprocessing
from tests.trainers.tiny_runs import MTACLIP, TINY, failure, run_training, write_folder
from trainers import evaluate, train
from trainers.assemble import restore_model
from trainers.run.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that was validated in windows."""
    folder = tmp_path_factory.mktemp("runs") / "unet"
    windows = ["--eval.mode=slide", "--eval.window=[32,32]", "--eval.stride=[16,16]"]
    train.main([*TINY, "--model.arch=unet", "--data.size=64", *windows, "--train.output", str(folder)])
    return folder / "last.pt"


def report_of(checkpoint: Path, output: Path, *options: str) -> dict[str, Any]:
    evaluate.main(["--checkpoint", str(checkpoint), "--device", "cpu", "--output", str(output), *options])
    return json.loads(output.read_text())


def test_images_are_evaluated_as_in_training_unless_told_otherwise(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = report_of(checkpoint, tmp_path / "a.json")
    sliding = {"mode": "slide", "window": [32, 32], "stride": [16, 16], "scales": [1.0], "flip": False}
    assert trained["eval"] == sliding
    assert list(trained["class_boundary_iou"]) == list(trained["class_iou"])
    out = capsys.readouterr().out
    for name in ("mean_iou", "frequency_weighted_iou", "pixel_accuracy", "boundary_iou"):
        assert 0 <= trained[name] <= 1 and f"{100 * trained[name]:.1f}" in out
    assert trained["boundary_f_score"] is None  # the figures' outlines have no label

    whole = report_of(checkpoint, tmp_path / "b.json", "--eval.mode", "whole")
    assert whole["eval"] == sliding | {"mode": "whole"}
    assert whole["pixel_accuracy"] != trained["pixel_accuracy"]

    one_window = report_of(checkpoint, tmp_path / "c.json", "--eval.window", "[64,64]", "--eval.stride", "[64,64]")
    assert one_window | {"eval": None} == whole | {"eval": None}

    views = ["--eval.mode=whole", "--eval.scales=[0.5,1,1.5]", "--eval.flip=true"]
    several = report_of(checkpoint, tmp_path / "d.json", *views)
    assert several["eval"] == sliding | {"mode": "whole", "scales": [0.5, 1.0, 1.5], "flip": True}
    assert several["pixel_accuracy"] != whole["pixel_accuracy"]


def test_the_limit_of_pixels_can_be_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data", labels=[0, 1])
    folder = ["--data.dataset=folder", f"--data.root={tmp_path / 'data'}", "--model.arch=unet"]
    limited = [*folder, "--data.max_pixels=1039", "--train.output", str(tmp_path / "limited")]
    with pytest.raises(SystemExit):
        train.main([*TINY, *limited])
    assert "has 40x26 = 1040 pixels, above the limit of 1039" in capsys.readouterr().err
    train.main([*TINY, *folder, "--train.output", str(tmp_path / "run")])
    arguments = ["--checkpoint", str(tmp_path / "run" / "last.pt"), "--device=cpu"]
    line = failure(evaluate.main, [*arguments, "--data.max_pixels=900"], capsys)
    assert "0.png has 40x24 = 960 pixels, above the limit of 900; if it is as it should be, set --data" in line
    evaluate.main([*arguments, "--data.max_pixels=1040"])


def test_a_stride_beyond_the_window_is_told_in_one_sentence(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["--checkpoint", str(checkpoint), "--eval.stride", "[40,40]"])
    assert stopped.value.code == 2
    assert "--eval.stride must not be larger than --eval.window" in capsys.readouterr().err


def test_what_clip_says_of_masks_is_restored_with_the_colours_of_the_images(tmp_path: Path) -> None:
    names = ["--model.text_encoder=tiny-rn", "--model.text_pretrained=null"]
    colours = ["--data.mean=[0.1,0.2,0.3]", "--data.std=[0.5,0.6,0.7]"]
    clip = ["--model.clip_masks=pool", "--model.trained_clip=0.3", "--model.untrained_clip=0.6"]
    run_training(tmp_path, *MTACLIP, *names, *colours, *clip)
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    model = restore_model(checkpoint).eval()
    prediction = model(torch.randn(1, 3, 40, 40), return_masks=True)
    assert prediction.clip_probabilities is not None
    assert (model.scoring.trained_clip, model.scoring.untrained_clip) == (0.3, 0.6)
    assert preprocessing(model) == Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    scores = report_of(tmp_path / "last.pt", tmp_path / "scores.json")
    assert checkpoint.validation.scores is not None
    assert scores["mean_iou"] == pytest.approx(checkpoint.validation.scores.mean_iou)
