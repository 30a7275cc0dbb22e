from __future__ import annotations

import numpy as np
import pytest
import torch

from trainers.data import statistics
from trainers.data.batch import Sample, SegmentationDataset, unit_values
from trainers.data.statistics import band_statistics


class Images(SegmentationDataset):
    """Images as they are given."""

    def __init__(self, *images: torch.Tensor) -> None:
        self.images = images
        self.class_names = ["a", "b"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], torch.zeros(self.images[index].shape[1:], dtype=torch.int64), str(index))


def images(dtype: torch.dtype) -> list[torch.Tensor]:
    """Of different sizes, each band with a mean of its own."""
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for size in ((40, 30), (700, 3), (1, 1)):
        values = torch.rand(4, *size, generator=generator) * torch.tensor([60, 20, 90, 40]).view(4, 1, 1)
        if dtype == torch.float32:
            values = values / 90 + torch.tensor([-3, 0, 0.5, 290]).view(4, 1, 1)
        elif dtype == torch.uint16:
            values = (values * 600).int()
        drawn.append(values.to(dtype))
    return drawn


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_they_are_those_of_all_pixels_together(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = images(dtype)
    together = np.concatenate([unit_values(image).double().flatten(1).numpy() for image in drawn], axis=1)
    mean, std = band_statistics(Images(*drawn), num_workers=0)
    np.testing.assert_allclose(mean, together.mean(1), rtol=1e-12)
    np.testing.assert_allclose(std, together.std(1), rtol=1e-7)
    assert all(type(value) is float for value in (*mean, *std))
    assert band_statistics(Images(*drawn), num_workers=2) == (mean, std)
    monkeypatch.setattr(statistics, "ROWS", 7)
    np.testing.assert_allclose(band_statistics(Images(*drawn), num_workers=0)[1], std, rtol=1e-9)


def test_a_band_that_says_nothing_is_named() -> None:
    flat = torch.rand(4, 9, 9)
    flat[2] = 273.15
    with pytest.raises(OSError, match=r"one and the same value in band 3; .*--data\.mean and --data\.std"):
        band_statistics(Images(flat, flat.flip(1)), num_workers=0)
