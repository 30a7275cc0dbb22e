from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
import torch

from tests.trainers.scores.test_metrics import no_boundaries
from trainers.scores.metrics import SegmentationScores, format_scores, segmentation_scores
from trainers.scores.zero_shot import harmonic_mean

CONFUSION = torch.tensor(
    [
        [6, 2, 0, 0],  # sky
        [0, 3, 0, 1],  # sheep, unseen
        [0, 0, 0, 0],  # car: neither labelled nor predicted
        [2, 1, 0, 5],  # sofa, unseen
    ]
)
ALONE = torch.tensor([[3, 1], [2, 6]])
NAMES = ["sky", "sheep", "car", "sofa"]


def scores(unseen: tuple[int, ...] = (1, 3)) -> SegmentationScores:
    return segmentation_scores(CONFUSION, no_boundaries(4), unseen_alone=ALONE, unseen=unseen)


def test_scores_by_hand() -> None:
    # IoU is hits / (labels + predictions - hits).
    sky, sheep, sofa = 6 / (8 + 8 - 6), 3 / (4 + 6 - 3), 5 / (8 + 6 - 5)
    zero_shot = scores().zero_shot
    assert zero_shot is not None and zero_shot.unseen == (1, 3)
    assert zero_shot.seen_mean_iou == pytest.approx(sky)  # the car occurs nowhere
    assert zero_shot.unseen_mean_iou == pytest.approx((sheep + sofa) / 2)
    unseen = (sheep + sofa) / 2
    assert zero_shot.harmonic_mean_iou == pytest.approx(2 / (1 / sky + 1 / unseen)) == scores().decisive
    assert zero_shot.unseen_alone_mean_iou == pytest.approx((3 / (4 + 5 - 3) + 6 / (8 + 7 - 6)) / 2)
    assert scores().mean_iou == pytest.approx((sky + sheep + sofa) / 3)


def test_without_unseen_classes_mean_iou_decides() -> None:
    plain = segmentation_scores(CONFUSION, no_boundaries(4))
    assert plain.zero_shot is None and plain.decisive == plain.mean_iou == scores().mean_iou
    assert "zero_shot" not in plain.to_dict(NAMES)


def test_unseen_classes_that_occur_nowhere_are_not_known() -> None:
    nowhere = segmentation_scores(CONFUSION, no_boundaries(4), unseen_alone=torch.zeros(1, 1), unseen=(2,))
    assert nowhere.zero_shot is not None and math.isnan(nowhere.zero_shot.harmonic_mean_iou)
    said = nowhere.to_dict(NAMES)["zero_shot"]
    assert said["unseen"] == ["car"] and said["unseen_mean_iou"] is said["unseen_alone_mean_iou"] is None
    assert harmonic_mean(0.0, 0.0) == harmonic_mean(0.0, 0.5) == 0.0


def test_the_table_marks_them_and_has_their_means() -> None:
    lines = format_scores(scores(), NAMES).splitlines()
    values = scores().zero_shot
    assert values is not None
    assert [line.split("  ")[0] for line in lines] == [
        "class, in %", lines[1], "sky", "sheep (unseen)", "car", "sofa (unseen)", lines[1], "mean over 3 of 4 classes",
        "mean of seen", "mean of unseen", "harmonic mean", "unseen among themselves", "frequency-weighted",
        "pixel accuracy",
    ]  # fmt: skip
    assert lines[8].endswith(f"{100 * values.seen_mean_iou:.1f}") and lines[9].endswith(
        f"{100 * values.unseen_mean_iou:.1f}"
    )
    assert lines[10].endswith(f"{100 * values.harmonic_mean_iou:.1f}")
    assert lines[11].endswith(f"{100 * values.unseen_alone_mean_iou:.1f}")


def test_json_and_back() -> None:
    said = json.loads(json.dumps(scores().to_dict(NAMES), allow_nan=False))
    assert said["zero_shot"]["unseen"] == ["sheep", "sofa"]
    assert said["zero_shot"]["harmonic_mean_iou"] == scores().decisive
    assert repr(SegmentationScores.from_dict(asdict(scores()))) == repr(scores())  # whose NaN are equal so
    old = asdict(scores())
    del old["zero_shot"]
    assert SegmentationScores.from_dict(old).zero_shot is None
