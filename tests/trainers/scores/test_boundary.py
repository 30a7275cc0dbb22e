from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt
from torch import Tensor

from trainers.scores.boundary import BoundaryCounts, BoundaryMetric, count_boundaries

IGNORE = 255


def counts(prediction: Tensor, labels: Tensor, *, num_classes: int) -> BoundaryCounts:
    return BoundaryCounts(*count_boundaries(prediction, labels, num_classes=num_classes))


def two_sides(first: int, *, height: int = 6, width: int = 8) -> Tensor:
    """Class 0 in the first columns, class 1 in the others."""
    return (torch.arange(width) >= first).long().repeat(height, 1)


def test_a_contour_that_is_one_pixel_off_by_hand() -> None:
    result = counts(two_sides(5), two_sides(4), num_classes=2)  # the diagonal is 10, so both distances are 1
    # 6 rows of 4 and of 5 columns, without the inside of 4 rows of 2 and of 3; 6 of 4 and of 3, without 4 of 2 and of 1
    assert result.label_band.tolist() == [24 - 8, 24 - 8]
    assert result.predicted_band.tolist() == [30 - 12, 18 - 4]
    # The outer column, and of the upper and the lower edge what both give to the class.
    assert result.common_band.tolist() == [6 + 2 * 3, 6 + 2 * 2]
    assert result.iou().tolist() == [12 / 22, 10 / 20]
    assert result.label_contour.tolist() == result.predicted_contour.tolist() == [6, 6]
    assert result.f_score().tolist() == [1, 1]
    assert counts(two_sides(6), two_sides(4), num_classes=2).f_score().tolist() == [0, 0]


def test_the_edge_of_the_image_is_near_a_contour_but_none() -> None:
    whole = torch.zeros(60, 80, dtype=torch.int64)  # a diagonal of 100, a band of 2
    result = counts(whole, whole, num_classes=2)
    assert result.label_band.tolist() == [60 * 80 - 56 * 76, 0]
    assert result.iou()[0] == 1 and math.isnan(result.iou()[1])
    assert result.label_contour.tolist() == [0, 0] and result.f_score().isnan().all()


def test_a_class_on_one_side_only_has_no_boundary_iou() -> None:
    labels = torch.zeros(6, 8, dtype=torch.int64)
    for prediction, truth in ((two_sides(4), labels), (labels, two_sides(4))):
        result = counts(prediction, truth, num_classes=3)
        assert result.iou()[1] == 0 and math.isnan(result.iou()[2]) and math.isnan(result.f_score()[2])
    # Contours that were missed score nothing; where the labels show none, nothing can be said.
    assert counts(labels, two_sides(4), num_classes=2).f_score().tolist() == [0, 0]
    assert counts(two_sides(4), labels, num_classes=2).f_score().isnan().all()


def test_ignored_pixels_neither_count_nor_make_boundaries() -> None:
    labels = torch.zeros(60, 80, dtype=torch.int64)
    labels[20:30, 20:50] = IGNORE
    expected = 60 * 80 - 56 * 76
    for guess in (0, 1):
        prediction = torch.zeros_like(labels)
        prediction[22:28, 21:45] = guess
        result = counts(prediction, labels, num_classes=2)
        assert result.label_band.tolist() == result.predicted_band.tolist() == [expected, 0]
        assert result.label_contour.tolist() == result.predicted_contour.tolist() == [0, 0]
    labels[:] = IGNORE
    assert count_boundaries(prediction, labels, num_classes=2).sum() == 0


def literal_counts(prediction: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Class by class, with scipy: erosions as in the code of Boundary IoU, and exact Euclidean distances."""
    diagonal = math.hypot(*labels.shape)
    width, tolerance = max(1, round(0.02 * diagonal)), max(1, 0.0075 * diagonal)
    ignored = labels >= num_classes

    def band(mask: np.ndarray) -> np.ndarray:
        return mask & ~binary_erosion(mask | ignored, np.ones((3, 3)), iterations=width, border_value=0)

    def contour(mask: np.ndarray) -> np.ndarray:
        return mask & binary_dilation(~mask & ~ignored)

    def near(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
        return mask & (distance_transform_edt(~other) <= tolerance) if other.any() else np.zeros_like(mask)

    rows = []
    for k in range(num_classes):
        truth, guess = (labels == k) & ~ignored, (prediction == k) & ~ignored
        truth_contour, guess_contour = contour(truth), contour(guess)
        maps = (
            *(band(truth), band(guess), band(truth) & band(guess)),
            *(truth_contour, near(truth_contour, guess_contour)),
            *(guess_contour, near(guess_contour, truth_contour)),
        )
        rows.append([pixels.sum() for pixels in maps])
    return np.array(rows).T


def scene(height: int, width: int, *, num_classes: int, cell: int, seed: int) -> tuple[Tensor, Tensor]:
    """Labels in cells, with ignored ones and noise; a prediction that is shifted by some pixels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, num_classes, (height // cell + 4, width // cell + 4), generator=generator)
    ids = ids.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    labels, prediction = ids[:height, :width].clone(), ids[2 : height + 2, 1 : width + 1].clone()
    noise = torch.rand(labels.shape, generator=generator)
    labels[noise < 0.01] = 0
    prediction[noise > 0.99] = 1
    labels[(ids[1 : height + 1, 3 : width + 3] == 2) | ((noise > 0.5) & (noise < 0.51))] = IGNORE
    return prediction, labels


@pytest.mark.parametrize(
    ("height", "width", "num_classes", "cell"),
    [(1, 1, 2, 1), (1, 30, 3, 4), (40, 1, 3, 4), (13, 9, 4, 3), (64, 64, 5, 9), (120, 200, 171, 6), (300, 400, 6, 40)],
)
def test_counts_are_those_of_a_slow_reference(height: int, width: int, num_classes: int, cell: int) -> None:
    for seed in range(3):
        prediction, labels = scene(height, width, num_classes=num_classes, cell=cell, seed=seed)
        expected = literal_counts(prediction.numpy(), labels.numpy(), num_classes)
        assert count_boundaries(prediction, labels, num_classes=num_classes).tolist() == expected.tolist()


def test_the_metric_sums_images_without_their_padding() -> None:
    sizes = ((30, 50), (40, 20))
    images = [scene(*size, num_classes=4, cell=7, seed=seed) for seed, size in enumerate(sizes)]
    prediction = torch.zeros(2, 40, 50, dtype=torch.int64)
    labels = torch.full_like(prediction, IGNORE)
    for index, (height, width) in enumerate(sizes):
        prediction[index, :height, :width], labels[index, :height, :width] = images[index]
    metric = BoundaryMetric(4)
    for _ in range(2):
        metric.update((prediction, labels, sizes))
    expected = 2 * sum(count_boundaries(*image, num_classes=4) for image in images)
    result = metric.compute()
    assert [getattr(result, field.name).tolist() for field in fields(result)] == expected.tolist()
    assert result.label_band.dtype == torch.int64
    metric.reset()
    assert metric.compute().label_band.tolist() == [0, 0, 0, 0]
