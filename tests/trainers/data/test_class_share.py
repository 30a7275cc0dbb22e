from __future__ import annotations

import torch
from torch import Tensor

from trainers.data.augment import TRIES, BatchAugmentation, largest_class_share
from trainers.data.batch import IGNORE_INDEX, Batch


def literal_share(label: Tensor) -> float:
    counts = [int((label == class_).sum()) for class_ in range(IGNORE_INDEX)]
    return max(counts) / sum(counts) if sum(counts) else 1.0


def half_and_half(count: int = 12) -> Batch:
    """80x160 pixels: class 0 at the left, the classes 1 to 4 in columns at the right; images that say the same."""
    row = torch.cat([torch.zeros(80, dtype=torch.int64), 1 + torch.arange(80) // 5 % 4])
    labels = row.expand(count, 80, -1).clone()
    return Batch(
        images=(labels / 10).unsqueeze(1).expand(-1, 3, -1, -1).clone(),
        labels=labels,
        names=tuple(map(str, range(count))),
        sizes=((80, 160),) * count,
    )


def augmentation(share: float, *, rank: int = 0, scale: tuple[float, float] = (0.75, 2.0)) -> BatchAugmentation:
    return BatchAugmentation(
        crop_size=(40, 40), scale_range=scale, photometric=0, max_class_share=share, seed=3, rank=rank
    )


def test_the_share_is_that_of_the_labelled_pixels() -> None:
    labels = torch.tensor([[[0, 0], [1, 255]], [[255, 255], [255, 255]], [[7, 7], [7, 7]], [[254, 3], [254, 255]]])
    assert torch.allclose(largest_class_share(labels), torch.tensor([2 / 3, 1, 1, 2 / 3]))
    labels = torch.randint(0, 256, (5, 9, 7)) % 4
    labels[labels == 3] = IGNORE_INDEX
    assert torch.allclose(largest_class_share(labels), torch.tensor([literal_share(label) for label in labels]))


def test_crops_filled_by_one_class_get_another_place() -> None:
    batch = half_and_half()
    free = torch.cat([augmentation(1)(batch, i).labels for i in range(8)])
    held = torch.cat([augmentation(0.75)(batch, i).labels for i in range(8)])
    before = torch.tensor([literal_share(label) for label in free])
    after = torch.tensor([literal_share(label) for label in held])
    # Half of the places are too much of class 0; that ten tries in a row are has a chance of about 1 in 1000.
    assert 0.2 < (before > 0.75).float().mean() < 0.7
    assert (after > 0.75).sum() <= 1
    for index in (before <= 0.75).nonzero().flatten():
        assert torch.equal(free[index], held[index])  # what was good is left alone


def test_images_move_with_their_labels() -> None:
    out = augmentation(0.6)(half_and_half(), 0)
    agree = (out.images[:, 0] * 10).round().long() == out.labels
    assert agree.float().mean() > 0.85


def test_a_picture_of_one_class_is_taken_as_it_comes() -> None:
    batch = half_and_half(2)
    batch.labels.fill_(1)
    assert (augmentation(0.5)(batch, 0).labels == 1).all()
    batch.labels.fill_(IGNORE_INDEX)
    assert (augmentation(0.5)(batch, 0).labels == IGNORE_INDEX).all()


def test_the_last_of_the_tries_is_taken_where_none_is_good() -> None:
    batch = half_and_half(4)
    augment = augmentation(0.01)
    transforms = augment._draw_transforms(batch.sizes, 0, range(4))
    chosen, _ = augment._warp_labels(batch.labels, transforms)
    assert transforms.shape == (4, TRIES, 2, 3) and torch.equal(chosen, transforms[:, -1])
    # The tries differ in their place only.
    assert torch.equal(transforms[..., :2], transforms[:, :1, :, :2].expand(-1, TRIES, -1, -1))
    assert len(transforms[0, :, :, 2].unique(dim=0)) == TRIES


def test_crops_depend_on_the_place_in_the_batch_of_all_ranks_alone() -> None:
    whole = augmentation(0.6)(half_and_half(8), 5)
    parts = [augmentation(0.6, rank=rank)(half_and_half(4), 5) for rank in (0, 1)]
    assert torch.equal(whole.labels, torch.cat([part.labels for part in parts]))
    assert torch.equal(whole.labels, augmentation(0.6)(half_and_half(8), 5).labels)
