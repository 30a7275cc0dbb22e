from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError

from trainers.scores.boundary import BoundaryCounts
from trainers.scores.metrics import LabelConfusionMatrix, SegmentationScores, format_scores, segmentation_scores


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


def test_labels_of_8_bits_count_as_others_do() -> None:
    """Their product with the number of classes is none that 8 bits hold."""
    prediction, labels = torch.randint(0, 40, (2, 1, 6, 7))
    stored, numbers = LabelConfusionMatrix(40), LabelConfusionMatrix(40)
    stored.update((prediction, labels.to(torch.uint8)))
    numbers.update((prediction, labels))
    assert torch.equal(stored.compute(), numbers.compute())


def test_attaches_to_an_evaluator() -> None:
    evaluator = Engine(lambda _, batch: batch)
    LabelConfusionMatrix(2).attach(evaluator, "confusion")
    maps = torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 255]]])
    evaluator.run([maps, maps])
    assert evaluator.state.metrics["confusion"].tolist() == [[2, 2], [0, 0]]


def test_maps_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 4, 2, 2\) and \(1, 2, 2\)"):
        LabelConfusionMatrix(4).update((torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)))


def boundaries(*counts: list[int]) -> BoundaryCounts:
    return BoundaryCounts(*torch.tensor(counts))


def no_boundaries(num_classes: int) -> BoundaryCounts:
    return boundaries(*[[0] * num_classes] * 7)


def test_scores_by_hand() -> None:
    # Class 0: 3 right, 1 taken for class 1. Class 1: 2 right, 2 taken for class 2, which has none of its own.
    confusion = torch.tensor([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = segmentation_scores(
        confusion,
        boundaries(
            [4, 2, 0, 0],  # bands of the labels,
            [3, 4, 2, 0],  # of the prediction,
            [3, 2, 0, 0],  # common
            [4, 2, 0, 0],  # contours of the labels,
            [3, 0, 0, 0],  # found
            [2, 0, 2, 0],  # contours of the prediction,
            [1, 0, 0, 0],  # right
        ),
    )
    assert scores.class_iou == (3 / 4, 2 / 5, 0.0, None)
    assert scores.mean_iou == pytest.approx((0.75 + 0.4 + 0.0) / 3)
    assert scores.pixel_accuracy == pytest.approx(5 / 8)
    assert scores.frequency_weighted_iou == pytest.approx(4 / 8 * 3 / 4 + 4 / 8 * 2 / 5)
    assert scores.class_boundary_iou == (3 / 4, 2 / 4, 0.0, None)
    assert scores.boundary_iou == pytest.approx((3 / 4 + 2 / 4 + 0.0) / 3)
    # Class 0: precision 1/2, recall 3/4. Class 1 has a contour in the labels only, class 2 in the prediction only.
    assert scores.class_boundary_f_score == (pytest.approx(2 * 1 / 2 * 3 / 4 / (1 / 2 + 3 / 4)), 0.0, None, None)
    assert scores.boundary_f_score == pytest.approx(0.6 / 2)


def test_counts_beyond_float32_stay_exact() -> None:
    big = 2**40
    scores = segmentation_scores(torch.tensor([[big, 0], [1, big]]), no_boundaries(2))
    assert scores.class_iou == (big / (big + 1), big / (big + 1))


def test_nothing_to_score_is_nan() -> None:
    scores = segmentation_scores(torch.zeros(3, 3, dtype=torch.int64), no_boundaries(3))
    means = [value for value in vars(scores).values() if isinstance(value, float)]
    assert len(means) == 5 and all(math.isnan(mean) for mean in means)
    assert scores.class_iou == scores.class_boundary_iou == scores.class_boundary_f_score == (None, None, None)
    assert json.loads(json.dumps(scores.to_dict("abc"), allow_nan=False))["boundary_iou"] is None


def test_table_and_json() -> None:
    scores = SegmentationScores(
        mean_iou=0.625,
        frequency_weighted_iou=0.7,
        pixel_accuracy=0.9,
        boundary_iou=0.5,
        boundary_f_score=0.25,
        class_iou=(0.75, 0.5, None),
        class_boundary_iou=(0.625, 0.375, None),
        class_boundary_f_score=(0.25, None, None),
    )
    names = ["sky", "striped blue square", "road"]
    assert format_scores(scores, names).splitlines() == [
        "class, in %                  IoU  boundary IoU  boundary F",
        "----------------------------------------------------------",
        "sky                         75.0          62.5        25.0",
        "striped blue square         50.0          37.5           -",
        "road                           -             -           -",
        "----------------------------------------------------------",
        "mean over 2 of 3 classes    62.5          50.0        25.0",
        "frequency-weighted          70.0",
        "pixel accuracy              90.0",
    ]
    assert "\nmean                   62.5" in format_scores(replace(scores, class_iou=(0.75, 0.5, 0.625)), names)
    assert json.loads(json.dumps(scores.to_dict(names))) == {
        "mean_iou": 0.625,
        "frequency_weighted_iou": 0.7,
        "pixel_accuracy": 0.9,
        "boundary_iou": 0.5,
        "boundary_f_score": 0.25,
        "class_iou": {"sky": 0.75, "striped blue square": 0.5, "road": None},
        "class_boundary_iou": {"sky": 0.625, "striped blue square": 0.375, "road": None},
        "class_boundary_f_score": {"sky": 0.25, "striped blue square": None, "road": None},
    }
