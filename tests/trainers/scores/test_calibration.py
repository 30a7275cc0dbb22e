from __future__ import annotations

import math

import pytest
import torch

from trainers.scores.calibration import CALIBRATIONS, CalibrationCounts

UNTRAINED = (1, 4)


def literal_confusion(scores: torch.Tensor, labels: torch.Tensor, calibration: float) -> torch.Tensor:
    """Pixel by pixel, with the scores of all trained classes calibrated."""
    confusion = torch.zeros(5, 5, dtype=torch.int64)
    for image, truth in zip(scores, labels, strict=True):
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                values = [
                    value if k in UNTRAINED else value * math.exp(-calibration)
                    for k, value in enumerate(image[:, row, column].tolist())
                ]
                if truth[row, column] != 255:
                    confusion[truth[row, column], values.index(max(values))] += 1
    return confusion


def test_all_calibrations_at_once_count_what_each_of_them_counts() -> None:
    scores, labels = torch.rand(3, 5, 6, 7) ** 3, torch.randint(5, (3, 6, 7))
    labels[:, 2] = 255
    counts = CalibrationCounts(5, UNTRAINED)
    counts.update(scores[:2], labels[:2])
    counts.update(scores[2:], labels[2:])
    confusions = counts.confusions()
    assert confusions.shape == (len(CALIBRATIONS), 5, 5)
    assert len({tuple(confusion.flatten().tolist()) for confusion in confusions}) > 5  # they are not all alike
    for calibration, confusion in zip(CALIBRATIONS, confusions, strict=True):
        assert torch.equal(confusion, literal_confusion(scores, labels, calibration))


def test_the_curve_by_hand() -> None:
    """Of two pixels that show the unseen class 1, one is found from 0.5 on, the other from 2 on."""
    ahead = torch.tensor([-1.0, 0.4, 1.9, 9.0])  # by how much the logit of class 0 is above that of class 1
    scores = torch.stack([ahead.exp(), torch.ones(4)]).view(1, 2, 1, 4) / 9000
    counts = CalibrationCounts(2, [1], calibrations=(0.0, 0.5, 2.0))
    counts.update(scores, torch.tensor([[[255, 1, 1, 0]]]))
    curve = counts.curve([1])
    assert [point.calibration for point in curve] == [0.0, 0.5, 2.0]
    assert [point.seen_mean_iou for point in curve] == pytest.approx([1 / 3, 1 / 2, 1])
    assert [point.unseen_mean_iou for point in curve] == pytest.approx([0, 1 / 2, 1])
    assert [point.harmonic_mean_iou for point in curve] == pytest.approx([0, 1 / 2, 1])


@pytest.mark.parametrize("untrained", [(), (0, 1, 2)])
def test_without_classes_of_one_sort_no_calibration_matters(untrained: tuple[int, ...]) -> None:
    scores, labels = torch.rand(1, 3, 4, 4), torch.randint(3, (1, 4, 4))
    counts = CalibrationCounts(3, untrained)
    counts.update(scores, labels)
    expected = torch.bincount((labels * 3 + scores.argmax(1)).flatten(), minlength=9).view(3, 3)
    assert all(torch.equal(confusion, expected) for confusion in counts.confusions())


def test_classes_of_one_sort_among_themselves() -> None:
    scores, labels = torch.rand(2, 5, 6, 7), torch.randint(5, (2, 6, 7))
    labels[:, 2] = 255
    counts = CalibrationCounts(5, UNTRAINED)
    counts.update(scores, labels)
    for counted, own in ((counts.untrained_alone(), (1, 4)), (counts.trained_alone(), (0, 2, 3))):
        expected = torch.zeros(5, 5, dtype=torch.int64)
        for image, truth in zip(scores, labels, strict=True):
            for label, values in zip(truth.flatten().tolist(), image.flatten(1).T.tolist(), strict=True):
                if label in own:
                    expected[label, max(own, key=lambda k: values[k])] += 1
        assert torch.equal(counted, expected)


def test_the_sum_of_counts_has_the_pixels_of_both() -> None:
    scores, labels = torch.rand(2, 5, 6, 7), torch.randint(5, (2, 6, 7))
    first, second, both = (CalibrationCounts(5, UNTRAINED) for _ in range(3))
    first.update(scores[:1], labels[:1])
    second.update(scores[1:], labels[1:])
    both.update(scores, labels)
    assert torch.equal((first + second).confusions(), both.confusions())
