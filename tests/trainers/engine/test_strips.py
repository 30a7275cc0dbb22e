from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from weakref import ref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.engine import strips
from trainers.engine.forward import Forward
from trainers.engine.resampling import resized_rows
from trainers.engine.strips import score_strips
from trainers.engine.views import average_views
from trainers.engine.windows import Scorer, window_starts
from trainers.options.config import EvalConfig

MANY_VIEWS = (0.3, 0.5, 0.75, 1.0, 1.25, 1.75)
WINDOWS = {"window": (16, 20), "stride": (11, 13)}


def slide_over_all(scores: Scorer, images: Tensor, *, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """The scores of the whole image in one tensor, as windows add to it."""
    height, width = images.shape[-2:]
    total = count = None
    for top, left in product(
        window_starts(height, window=window[0], stride=stride[0]),
        window_starts(width, window=window[1], stride=stride[1]),
    ):
        area = (..., slice(top, top + window[0]), slice(left, left + window[1]))
        part = scores(images[area])
        if total is None or count is None:
            total, count = part.new_zeros(*part.shape[:2], height, width), part.new_zeros(height, width)
        total[area] += part
        count[area] += 1
    assert total is not None
    return total / count


def network() -> nn.Module:
    """Five scores of a pixel from its surroundings."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1), nn.Softmax(1))


@torch.inference_mode()
def both_ways(size: tuple[int, int], *, scales: tuple[float, ...], flip: bool) -> tuple[Tensor, Tensor]:
    """Scores of the whole at once, and by strips."""
    model, images = network(), torch.rand(2, 3, *size)
    expected = average_views(partial(slide_over_all, model, **WINDOWS), images, scales=scales, flip=flip)
    parts = score_strips(model, images, lambda rows: rows, **WINDOWS, scales=scales, flip=flip)
    return expected, torch.cat(list(parts), 2)


@pytest.mark.parametrize("strip_pixels", [1, 300, 2**20])
@pytest.mark.parametrize("size", [(41, 53), (5, 70), (90, 7), (16, 20)])
@pytest.mark.parametrize("flip", [False, True])
def test_strips_are_the_rows_of_the_whole_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, strip_pixels: int, size: tuple[int, int], flip: bool
) -> None:
    monkeypatch.setattr(strips, "STRIP_PIXELS", strip_pixels)
    expected, result = both_ways(size, scales=(1.0,), flip=flip)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("strip_pixels", [1, 300, 2**20])
@pytest.mark.parametrize("size", [(41, 53), (5, 70), (90, 7)])
def test_strips_of_many_scales_are_the_rows_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, strip_pixels: int, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(strips, "STRIP_PIXELS", strip_pixels)
    expected, result = both_ways(size, scales=MANY_VIEWS, flip=True)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
    assert torch.equal(result.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("target", [(23, 31), (7, 5), (60, 23), (23, 90), (1, 1), (24, 30)])
def test_rows_of_a_resized_image_are_those_of_torch(target: tuple[int, int], antialias: bool) -> None:
    images, asked = torch.randn(2, 3, 23, 31), []

    def rows(first: int, last: int) -> Tensor:
        asked.append(last - first)
        return images[:, :, first:last].clone()

    expected = F.interpolate(images, target, mode="bilinear", align_corners=False, antialias=antialias)
    for first, last in ((0, target[0]), (target[0] // 2, target[0] // 2 + 1), (target[0] - 1, target[0])):
        result = resized_rows(rows, (23, 31), target, (first, last), antialias=antialias)
        torch.testing.assert_close(result, expected[:, :, first:last], atol=1e-6, rtol=0)
    if target[0] > 1:
        assert max(asked[1:]) <= 2 * max(1, 23 / target[0]) + 1 < 23


def test_of_an_image_of_one_strip_one_view_after_the_other_lies_in_memory() -> None:
    given: list[ref[Tensor]] = []

    def watched(images: Tensor) -> Tensor:
        assert sum(scores() is not None for scores in given) <= 1
        scores = images.mean(1, keepdim=True).repeat(1, 2, 1, 1)
        given.append(ref(scores))
        return scores

    images = torch.rand(1, 3, 40, 40)
    peaks = []
    for count in (2, 9):
        views = {"window": (40, 40), "stride": (40, 40), "scales": (1.0,) * count, "flip": False}
        with Scores() as scores:
            list(score_strips(watched, images, torch.clone, **views))
        peaks.append(scores.peak)
    assert peaks[0] == peaks[1]


class Scores(TorchDispatchMode):
    """Most bytes of all tensors (B, 2, H, W) that exist at any time."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[ref[Tensor]] = []
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.ndim == 4 and result.shape[1] == 2:
            self._seen.append(ref(result))
        alive = [tensor.untyped_storage() for seen in self._seen if (tensor := seen()) is not None]
        self.peak = max(self.peak, sum({storage.data_ptr(): storage.nbytes() for storage in alive}.values()))
        return result


class LargestTensor(TorchDispatchMode):
    """The most numbers that any tensor of floating point has."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.numbers = max(self.numbers, tensor.numel())
        return result


class Pixels(nn.Module):
    """Scores of seven classes."""

    requires_divisible_input_shape = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 7, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5)])
def test_neither_the_image_nor_its_scores_exist_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scales: tuple[float, ...]
) -> None:
    rows, columns, window = 1000, 48, (32, 32)
    monkeypatch.setattr(strips, "STRIP_PIXELS", 16 * columns)
    np.save(tmp_path / "image.npy", np.random.default_rng(0).integers(0, 256, (3, rows, columns), np.uint8))
    image = torch.from_numpy(np.load(tmp_path / "image.npy", mmap_mode="c"))[None]
    evaluation = EvalConfig(mode="slide", window=window, stride=(20, 20), scales=scales, flip=True)
    options = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "device": torch.device("cpu"), "precision": "float32"}
    forward = Forward(Pixels(), evaluation=evaluation, **options)
    with LargestTensor() as largest:
        labels = torch.cat([strip.to(torch.uint8) for strip in forward.predict_strips(image)], 1)
    widest = round(max(scales) * columns)  # three rows of windows of scores are less than half of the image
    assert largest.numbers <= 7 * 3 * window[0] * widest < 3 * rows * columns / 2
    expected = average_views(
        partial(slide_over_all, forward._scores, window=window, stride=(20, 20)),
        image / 255,
        scales=scales,
        flip=True,
    )
    assert labels.shape == (1, rows, columns) and len(labels.unique()) > 3
    assert torch.equal(labels.long(), expected.argmax(1))
