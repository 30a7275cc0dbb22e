from __future__ import annotations

import torch

from mtaclip_plugin.losses import random_points, sample_features, sample_labels, uncertain_points
from tests.losses.reference import is_valid


def test_random_points_follow_the_generator() -> None:
    first, again = (
        random_points(2, 50, device=torch.device("cpu"), generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert first.shape == (2, 50, 2) and first.min() >= 0 and first.max() < 1
    assert torch.equal(first, again)


def test_sample_features_by_hand() -> None:
    maps = torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]])
    # Pixel centres lie at 1/4 and 3/4; beyond them the value fades to the zeros around the map.
    where = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [1.0, 0.75]]])
    assert sample_features(maps, where).tolist() == [[[0.0, 4.0, 8.0, 6.0, 6.0]]]


def test_sampled_labels_equal_sampled_masks() -> None:
    torch.manual_seed(0)
    label_map = torch.randint(0, 4, (2, 13, 9))
    border = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.3], [1e-4, 1 - 1e-4]])
    where = torch.cat([torch.rand(3, 400, 2), border.expand(3, -1, -1)], dim=1)
    image, classes = torch.tensor([0, 1, 1]), torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 7, 2]])
    sampled = sample_labels(label_map, where, classes, image=image, ignore_index=None)
    masks = (label_map[image][:, None] == classes[:, :, None, None]).float()
    torch.testing.assert_close(sampled.targets, sample_features(masks, where), atol=1e-5, rtol=0)
    assert sampled.valid.all()


def test_point_is_valid_if_no_pixel_under_it_is_ignored() -> None:
    torch.manual_seed(0)
    label_map = torch.where(torch.rand(2, 11, 14) < 0.2, 255, 1)
    where = torch.rand(2, 300, 2)
    sampled = sample_labels(label_map, where, torch.ones(2, 1).long(), image=torch.arange(2), ignore_index=255)
    expected = [[is_valid(label_map[b] == 255, point) for point in where[b]] for b in range(2)]
    assert sampled.valid.tolist() == expected
    assert 0 < sampled.valid.float().mean() < 1


def test_the_outside_of_the_image_is_not_ignored() -> None:
    label_map = torch.ones(1, 4, 4, dtype=torch.int64)
    label_map[0, 1:, 1:] = 255
    where = torch.tensor([[[0.0, 0.0], [0.125, 0.125], [1.0, 1.0]]])
    sampled = sample_labels(label_map, where, torch.ones(1, 1).long(), image=torch.tensor([0]), ignore_index=255)
    # The corner's only pixel has a label; at a pixel's very centre its neighbours count too.
    assert sampled.valid.tolist() == [[True, False, False]]
    assert sampled.targets.tolist() == [[[0.25, 1.0, 0.0]]]


def test_uncertain_points_are_those_near_the_border_of_the_mask() -> None:
    # Logits -3, -1, 1, 3 from left to right at x = 1/8, 3/8, 5/8, 7/8.
    mask_logits = torch.tensor([-3.0, -1.0, 1.0, 3.0]).expand(1, 4, 4)
    x = torch.tensor([0.15, 0.5, 0.85, 0.45, 0.7])
    candidates = torch.stack([x, torch.full((5,), 0.5)], dim=1)[None]
    valid = torch.ones(1, 5, dtype=torch.bool)
    chosen = uncertain_points(mask_logits, candidates, valid, num_points=2)
    assert sorted(chosen[0, :, 0].tolist()) == x[[3, 1]].tolist()
    valid[0, 1] = False
    chosen = uncertain_points(mask_logits, candidates, valid, num_points=2)
    assert sorted(chosen[0, :, 0].tolist()) == x[[3, 4]].tolist()
    # With too few valid candidates the invalid ones fill up.
    assert uncertain_points(mask_logits, candidates, ~valid, num_points=3).shape == (1, 3, 2)
