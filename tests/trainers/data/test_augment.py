from __future__ import annotations

import pytest
import torch

from trainers.data.augment import BatchAugmentation
from trainers.data.batch import IGNORE_INDEX, Batch


def flat_batch(height: int, width: int, *, count: int = 16) -> Batch:
    """Grey images whose every label is 0, without padding."""
    return Batch(
        images=torch.full((count, 3, height, width), 0.5),
        labels=torch.zeros(count, height, width, dtype=torch.int64),
        names=tuple(map(str, range(count))),
        sizes=((height, width),) * count,
    )


def blocks(height: int, width: int, *, count: int = 16) -> Batch:
    """Labels in blocks of 16 pixels, and images that say the same: (label + 1) / 20 in every channel."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    labels = ((y // 16) * 7 + (x // 16) * 3).remainder(19).expand(count, -1, -1).clone()
    return Batch(
        images=((labels + 1) / 20).unsqueeze(1).expand(-1, 3, -1, -1).clone(),
        labels=labels,
        names=tuple(map(str, range(count))),
        sizes=((height, width),) * count,
    )


@pytest.mark.parametrize(
    ("crop", "scale", "cut"),
    [
        ((256, 320), (0.5, 2.0), (512, 640)),
        ((256, 320), (0.75, 1.5), (342, 427)),
        ((64, 64), (1.5, 2), (64, 64)),
    ],
)
def test_cut_size_lets_the_smallest_scale_fill_the_crop(
    crop: tuple[int, int], scale: tuple[float, float], cut: tuple[int, int]
) -> None:
    augmentation = BatchAugmentation(crop_size=crop, scale_range=scale, seed=0)
    assert augmentation.cut_size == cut
    out = augmentation(flat_batch(*cut), 0)
    assert out.images.shape == (16, 3, *crop) and out.sizes == (crop,) * 16
    assert (out.labels == 0).all()  # nothing warped in, whatever the scale


def test_labels_stay_where_the_image_is() -> None:
    augmentation = BatchAugmentation(crop_size=(64, 96), scale_range=(0.5, 2.0), photometric=0, seed=3)
    out = augmentation(blocks(*augmentation.cut_size), 5)
    seen = (out.images[:, 0] * 20 - 1).round().long()
    # Only along the blocks' edges does bilinear sampling mix labels where nearest sampling takes one.
    agree = seen == out.labels
    assert agree.float().mean() > 0.85
    inner = (
        torch.nn.functional.max_pool2d(out.images[:, :1], 5, 1, 2)
        + torch.nn.functional.max_pool2d(-out.images[:, :1], 5, 1, 2)
    )[:, 0] < 1e-4
    assert inner.float().mean() > 0.3 and agree[inner].all()


def test_scale_one_without_flip_is_a_window_bit_for_bit() -> None:
    augmentation = BatchAugmentation(crop_size=(20, 30), scale_range=(1, 1), flip=0, photometric=0, seed=0)
    image = torch.rand(1, 3, 20, 30)
    labels = torch.randint(0, 255, (1, 20, 30))
    out = augmentation(Batch(image, labels, ("x",), ((20, 30),)), 0)
    assert torch.allclose(out.images, image, atol=1e-5) and torch.equal(out.labels, labels)


def test_flip_mirrors_image_and_labels() -> None:
    augmentation = BatchAugmentation(crop_size=(20, 30), scale_range=(1, 1), flip=1, photometric=0, seed=0)
    image = torch.rand(1, 3, 20, 30)
    labels = torch.randint(0, 255, (1, 20, 30))
    out = augmentation(Batch(image, labels, ("x",), ((20, 30),)), 0)
    assert torch.allclose(out.images, image.flip(-1), atol=1e-5) and torch.equal(out.labels, labels.flip(-1))


def test_scale_two_doubles_each_pixel() -> None:
    augmentation = BatchAugmentation(crop_size=(8, 12), scale_range=(2, 2), flip=0, photometric=0, seed=0)
    labels = torch.arange(24).view(1, 4, 6)
    batch = Batch(torch.rand(1, 3, 4, 6), labels, ("x",), ((4, 6),))
    out = augmentation(batch, 0)
    assert torch.equal(out.labels, labels.repeat_interleave(2, 1).repeat_interleave(2, 2))
    expected = torch.nn.functional.interpolate(batch.images, scale_factor=2, mode="bilinear")
    # Away from the border, where interpolate repeats the last pixel and the warp fades it out.
    assert torch.allclose(out.images[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5)


def test_scales_fill_their_range_evenly() -> None:
    """A single dot, magnified: its area is the squared scale."""
    augmentation = BatchAugmentation(crop_size=(120, 120), scale_range=(0.5, 2), photometric=0, seed=0)
    labels = torch.zeros(400, 60, 60, dtype=torch.int64)
    labels[:, 20:40, 20:40] = 1
    batch = Batch(torch.zeros(400, 3, 60, 60), labels, ("x",) * 400, ((60, 60),) * 400)
    scale = (augmentation(batch, 0).labels == 1).sum((1, 2)).sqrt() / 20
    assert 0.47 < scale.min() < 0.55 and 1.95 < scale.max() < 2.03
    assert abs(scale.mean() - 1.25) < 0.06 and abs(scale.median() - 1.25) < 0.1


def test_pixels_from_outside_and_padding_are_ignored() -> None:
    augmentation = BatchAugmentation(crop_size=(40, 40), scale_range=(0.5, 0.5), photometric=0, seed=0)
    inside = augmentation(flat_batch(40, 40), 0).labels == 0
    assert (inside.sum((1, 2)) == 20 * 20).all()  # 40 pixels at half size lie in the crop, whole
    assert len(set(inside.flatten(1).float().argmax(1).tolist())) > 5  # each at its own place
    padded = flat_batch(80, 80)
    padded.labels[:, 40:] = IGNORE_INDEX
    padded.labels[:, :, 40:] = IGNORE_INDEX
    out = augmentation(Batch(padded.images, padded.labels, padded.names, ((40, 40),) * 16), 0)
    assert torch.equal(out.labels == 0, inside)
    assert set(out.labels.unique().tolist()) == {0, IGNORE_INDEX}


def test_windows_stay_in_the_sample_where_it_is_larger() -> None:
    augmentation = BatchAugmentation(crop_size=(32, 32), scale_range=(1, 1), photometric=0, seed=0)
    batch = flat_batch(64, 64)
    batch.labels[:, 40:] = IGNORE_INDEX
    out = augmentation(Batch(batch.images, batch.labels, batch.names, ((40, 64),) * 16), 0)
    assert (out.labels == 0).all()


def test_photometric_touches_images_only_and_keeps_the_range() -> None:
    plain, colored = (
        BatchAugmentation(crop_size=(48, 48), scale_range=(0.5, 2), photometric=strength, seed=1)
        for strength in (0.0, 1.0)
    )
    batch = blocks(*plain.cut_size)
    before, after = plain(batch, 0), colored(batch, 0)
    assert torch.equal(before.labels, after.labels)
    changed = (before.images - after.images).abs().amax((1, 2, 3)) > 0.01
    assert 5 < changed.sum() <= 16
    assert after.images.min() >= 0 and after.images.max() <= 1


def test_augmentation_depends_on_seed_rank_and_iteration_alone() -> None:
    options = {"crop_size": (32, 32), "scale_range": (0.5, 2.0)}
    augmentation = BatchAugmentation(**options, seed=7)
    batch = blocks(64, 64)
    first = augmentation(batch, 3)
    torch.rand(5)
    again = BatchAugmentation(**options, seed=7)(batch, 3)
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    for other in (
        augmentation(batch, 4),
        BatchAugmentation(**options, seed=8)(batch, 3),
        BatchAugmentation(**options, seed=7, rank=1)(batch, 3),
    ):
        assert not torch.equal(first.labels, other.labels)
    # Samples of one batch differ from each other, too.
    assert len({tuple(label.flatten().tolist()) for label in first.labels}) == 16


def test_global_generator_and_the_input_stay_as_they_were() -> None:
    batch = blocks(64, 64)
    images, labels = batch.images.clone(), batch.labels.clone()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    BatchAugmentation(crop_size=(32, 32), scale_range=(0.5, 2), seed=0)(batch, 0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)


def test_bad_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending order"):
        BatchAugmentation(crop_size=(8, 8), scale_range=(2, 0.5), seed=0)
    with pytest.raises(ValueError, match=r"lie in \[0,1\]"):
        BatchAugmentation(crop_size=(8, 8), scale_range=(0.5, 2), flip=1.5, seed=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_draws_what_the_cpu_draws() -> None:
    augmentation = BatchAugmentation(crop_size=(32, 32), scale_range=(0.5, 2), seed=0)
    batch = blocks(64, 64)
    cpu, gpu = augmentation(batch, 0), augmentation(batch.to("cuda"), 0)
    assert gpu.images.is_cuda
    assert torch.allclose(gpu.images.cpu(), cpu.images, atol=1e-3)
    assert (gpu.labels.cpu() == cpu.labels).float().mean() > 0.99


def test_bands_in_a_unit_of_their_own_are_not_clipped_and_go_on_at_their_edge() -> None:
    images = torch.full((8, 5, 40, 40), 290.0) + torch.arange(5).view(5, 1, 1)
    images[:, :, 30:] = 0  # the padding of a sample of 30 by 36 pixels
    images[..., 36:] = 0
    labels = torch.zeros(8, 40, 40, dtype=torch.int64)
    labels[:, 30:], labels[..., 36:] = IGNORE_INDEX, IGNORE_INDEX
    batch = Batch(images, labels, tuple("abcdefgh"), ((30, 36),) * 8, (torch.float32,) * 8)
    augmentation = BatchAugmentation(crop_size=(48, 48), scale_range=(0.5, 1.5), photometric=0, seed=0)
    before = images.clone()
    out = augmentation(batch, 0)
    expected = 290.0 + torch.arange(5).view(5, 1, 1)
    torch.testing.assert_close(out.images, expected.expand(8, 5, 48, 48), atol=1e-3, rtol=0)
    assert (out.labels == IGNORE_INDEX).any() and out.dtypes == batch.dtypes
    assert torch.equal(batch.images, before)
    # Where there are labels, they are where they would be of 8 bits.
    of_8_bits = augmentation(Batch(images, labels, batch.names, batch.sizes, (torch.uint8,) * 8), 0)
    assert torch.equal(of_8_bits.labels, out.labels) and of_8_bits.images.max() == 1 and of_8_bits.images.min() == 0


def test_images_as_they_are_stored_are_refused() -> None:
    augmentation = BatchAugmentation(crop_size=(4, 4), scale_range=(1.0, 1.0), seed=0)
    stored = Batch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4).long(), ("x",), ((4, 4),))
    with pytest.raises(ValueError, match=r"torch\.uint8 cannot be augmented; move the batch with Batch\.to first"):
        augmentation(stored, 0)
