from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from mtaclip_plugin.losses import ClassMatcher, HungarianMatcher, MaskTargets
from mtaclip_plugin.structures import MaskPrediction
from tests.losses.reference import make_prediction


def stripes(*classes: int, size: int = 32) -> torch.Tensor:
    """(1, size, size) label map of upright stripes, one for each class."""
    columns = torch.tensor(classes).repeat_interleave(size // len(classes))
    return columns.expand(1, size, size).clone()


def targets_of(label_map: torch.Tensor, num_classes: int = 4, **options) -> MaskTargets:
    return MaskTargets.from_label_map(label_map, num_classes=num_classes, **options)


def test_matching_by_hand() -> None:
    # Left half class 1, right half class 3. Feature 0 is the left half, feature 1 the right one.
    features = torch.zeros(1, 2, 8, 8)
    features[0, 0, :, :4] = features[0, 1, :, 4:] = 1
    strong = torch.tensor([[-9.0, 9.0], [9.0, -9.0], [-9.0, -9.0]])  # right, left, nothing
    prediction = MaskPrediction(
        class_logits=torch.zeros(1, 3, 5),
        mask_embed=strong[None],
        mask_features=features,
        text_logits=None,
        image_size=(32, 32),
        padded_size=(32, 32),
    )
    matches = HungarianMatcher(num_points=200)([prediction], targets_of(stripes(1, 3)))
    assert matches.image.tolist() == [0, 0]
    assert matches.labels.tolist() == [[1, 3]] and matches.queries.tolist() == [[1, 0]]
    assert matches.query_labels(3, none=4).tolist() == [[[3, 1, 4]]]


def test_costs_and_assignment_by_hand() -> None:
    # No mask anywhere (logit 0, p = 1/2): BCE is log 2 for every pair; only class and dice differ.
    probabilities = torch.tensor([[0.5, 0.4, 0.1], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]])
    prediction = MaskPrediction(
        class_logits=probabilities.log()[None],
        mask_embed=torch.zeros(1, 3, 2),
        mask_features=torch.zeros(1, 2, 8, 8),
        text_logits=None,
        image_size=(32, 32),
        padded_size=(32, 32),
    )
    targets = targets_of(stripes(0, 1), num_classes=2)
    matcher = HungarianMatcher(class_cost=2.0, mask_cost=5.0, dice_cost=0.0, num_points=100)
    expected = -2 * probabilities[:, :2] + 5 * np.log(2)
    torch.testing.assert_close(matcher.costs([prediction], targets)[0, 0], expected)
    # Totals: (0→q0, 1→q1) 0.6, (0→q1, 1→q0) 1.0, ... : class 0 gives up nothing, class 1 takes query 0.
    assert matcher([prediction], targets).queries.tolist() == [[1, 0]]


def test_image_without_mask_matches_nothing() -> None:
    label_map = torch.cat([stripes(255), stripes(0, 2)])
    prediction = make_prediction(image_size=(32, 32))
    matches = HungarianMatcher(num_points=30)(prediction.layers, targets_of(label_map))
    assert matches.counts == [0, 2] and matches.image.tolist() == [1, 1]
    assert matches.labels.tolist() == [[0, 2]] * 3
    nothing = HungarianMatcher(num_points=30)(prediction.layers, targets_of(torch.full_like(label_map, 255)))
    assert nothing.queries.shape == (3, 0) and nothing.counts == [0, 0]
    assert (nothing.query_labels(5, none=4) == 4).all()


def test_every_prediction_is_matched_on_its_own_at_the_same_points() -> None:
    label_map = torch.cat([stripes(0, 1, 2, 3), stripes(3, 1)])
    layers = make_prediction(image_size=(32, 32)).layers
    matcher = HungarianMatcher(num_points=50)
    together = matcher.costs(layers, targets_of(label_map), torch.Generator().manual_seed(3))
    for layer, costs in zip(layers, together, strict=True):
        alone = matcher.costs([layer], targets_of(label_map), torch.Generator().manual_seed(3))
        torch.testing.assert_close(alone[0], costs)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_queries_that_are_not_finite_are_matched_last(bad) -> None:
    prediction = make_prediction(batch=1, queries=4, layers=1, image_size=(32, 32))
    with torch.no_grad():
        prediction.mask_embed[0, 1] = bad
        prediction.class_logits[0, 2] = bad
    matcher = HungarianMatcher(num_points=50)
    two = matcher([prediction], targets_of(stripes(0, 3)))
    assert sorted(two.queries[0].tolist()) == [0, 3]
    three = matcher([prediction], targets_of(stripes(0, 1, 2, 3)[:, :, :24]))
    assert {0, 3} < set(three.queries[0].tolist())
    # Which masks the two sound queries take is still decided by their costs.
    with torch.no_grad():
        prediction.mask_features.fill_(bad)
    assert matcher([prediction], targets_of(stripes(0, 3))).queries.shape == (1, 2)


def test_more_classes_than_queries_match_as_far_as_they_go_with_one_warning() -> None:
    prediction = make_prediction(queries=2, image_size=(32, 32))
    targets = targets_of(torch.cat([stripes(0, 1, 2, 3), stripes(2)]))
    matcher = HungarianMatcher(num_points=50)
    with pytest.warns(UserWarning, match="4 classes, but there are only 2 mask queries.*num_queries"):
        matches = matcher(prediction.layers, targets)
    assert matches.counts == [2, 1]
    for queries, labels in zip(matches.queries, matches.labels, strict=True):
        assert sorted(queries[:2].tolist()) == [0, 1]
        assert labels[0] < labels[1] and labels[2] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matcher(prediction.layers, targets)


def test_costs_are_float32_under_autocast() -> None:
    prediction = make_prediction(image_size=(32, 32))
    targets = targets_of(torch.cat([stripes(0, 1), stripes(2)]))
    matcher = HungarianMatcher(num_points=50)
    plain = matcher.costs(prediction.layers, targets, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        costs = matcher.costs(prediction.layers, targets, torch.Generator().manual_seed(0))
    assert costs.dtype == torch.float32 and torch.equal(costs, plain)


@pytest.mark.parametrize(
    ("label_map", "sentence"),
    [
        (torch.full((1, 4, 4), 7), "target holds the id 7, but there are K=4 .*ignore_index=255: map"),
        (torch.full((1, 4, 4), -1), "target holds the id -1"),
        (torch.full((1, 4, 4), 4), r"id 4, but there are K=4 classes \(ids 0 to 3\)"),
        (torch.zeros(1, 4, 4), r"int64 class ids, got torch.float32 .*target.long\(\)"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), "got torch.uint8"),
        (torch.zeros(4, 4).long(), r"\(B, H, W\).* shape \(4, 4\)"),
    ],
)
def test_bad_label_maps_end_in_a_sentence(label_map, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        targets_of(label_map)


def test_targets_list_classes_and_pad_with_the_ignored_id() -> None:
    targets = targets_of(torch.cat([stripes(3, 0, size=4), stripes(255, 1, size=4)]), padded_size=(8, 6))
    assert targets.classes == ((0, 3), (1,))
    assert targets.label_map.shape == (2, 8, 6)
    assert (targets.label_map[:, 4:] == 255).all() and (targets.label_map[:, :, 4:] == 255).all()
    assert targets.label_map[0, 0].tolist() == [3, 3, 0, 0, 255, 255]
    # The ignored id may be one of the classes' or none at all.
    assert targets_of(stripes(0, 1), ignore_index=0).classes == ((1,),)
    assert targets_of(stripes(0, 1), ignore_index=-100).ignore_index == -100


def test_by_class_query_k_has_the_mask_of_class_k() -> None:
    layers = make_prediction(image_size=(32, 32)).layers
    matches = ClassMatcher()(layers, targets_of(torch.cat([stripes(3, 1), stripes(255), stripes(0, 2, 3, 2)])))
    assert matches.image.tolist() == [0, 0, 2, 2, 2] and matches.counts == [2, 0, 3]
    assert matches.queries.tolist() == matches.labels.tolist() == [[1, 3, 0, 2, 3]] * 3
    assert matches.query_labels(5, none=4)[0].tolist() == [[4, 1, 4, 3, 4], [4] * 5, [0, 4, 2, 3, 4]]


def test_by_class_needs_a_query_for_each_class() -> None:
    layers = make_prediction(image_size=(32, 32)).layers
    with pytest.raises(ValueError, match=r"each of the K=6 classes, but there are Q=5; raise num_queries"):
        ClassMatcher()(layers, targets_of(stripes(0, 1), num_classes=6))
