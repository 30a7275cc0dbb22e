from __future__ import annotations

import json
import math

import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError

from trainers.metrics import LabelConfusionMatrix, SegmentationScores, format_scores, segmentation_scores


def test_matches_a_loop_over_pixels_and_batches() -> None:
    metric = LabelConfusionMatrix(5)
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for _ in range(3):
        prediction = torch.randint(0, 5, (2, 6, 7))
        labels = torch.randint(0, 5, (2, 6, 7))
        labels[torch.rand(labels.shape) < 0.2] = 255
        metric.update((prediction, labels))
        for p, y in zip(prediction.flatten().tolist(), labels.flatten().tolist(), strict=True):
            if y != 255:
                expected[y, p] += 1
    assert metric.compute().dtype == torch.int64
    assert torch.equal(metric.compute(), expected)
    metric.reset()
    with pytest.raises(NotComputableError):
        metric.compute()


def test_attaches_to_an_evaluator() -> None:
    evaluator = Engine(lambda _, batch: batch)
    LabelConfusionMatrix(2).attach(evaluator, "confusion")
    maps = torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 255]]])
    evaluator.run([maps, maps])
    assert evaluator.state.metrics["confusion"].tolist() == [[2, 2], [0, 0]]


def test_maps_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 4, 2, 2\) and \(1, 2, 2\)"):
        LabelConfusionMatrix(4).update((torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)))


def test_scores_by_hand() -> None:
    # Class 0: 3 right, 1 taken for class 1. Class 1: 2 right, 2 taken for class 2, which has none of its own.
    confusion = torch.tensor([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = segmentation_scores(confusion)
    assert scores.class_iou == (3 / 4, 2 / 5, 0.0, None)
    assert scores.mean_iou == pytest.approx((0.75 + 0.4 + 0.0) / 3)
    assert scores.pixel_accuracy == pytest.approx(5 / 8)


def test_counts_beyond_float32_stay_exact() -> None:
    big = 2**40
    scores = segmentation_scores(torch.tensor([[big, 0], [1, big]]))
    assert scores.class_iou == (big / (big + 1), big / (big + 1))


def test_nothing_to_score_is_nan() -> None:
    scores = segmentation_scores(torch.zeros(3, 3, dtype=torch.int64))
    assert math.isnan(scores.mean_iou) and math.isnan(scores.pixel_accuracy)
    assert scores.class_iou == (None, None, None)


def test_table_and_json() -> None:
    scores = SegmentationScores(mean_iou=0.625, class_iou=(0.75, 0.5, None), pixel_accuracy=0.9)
    names = ["sky", "striped blue square", "road"]
    assert format_scores(scores, names).splitlines() == [
        "class                   IoU",
        "---------------------------",
        "sky                  0.7500",
        "striped blue square  0.5000",
        "road                      -",
        "---------------------------",
        "mean IoU             0.6250",
        "pixel accuracy       0.9000",
    ]
    assert json.loads(json.dumps(scores.to_dict(names))) == {
        "mean_iou": 0.625,
        "pixel_accuracy": 0.9,
        "class_iou": {"sky": 0.75, "striped blue square": 0.5, "road": None},
    }
