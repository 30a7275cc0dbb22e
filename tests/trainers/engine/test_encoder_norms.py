from __future__ import annotations

import pytest
import torch
from torch import nn

from trainers.engine.encoder_norms import check_statistics, keep_statistics


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)])
def test_norms_that_track_nothing_have_nothing_to_keep(norm: nn.Module) -> None:
    check_statistics(nn.Sequential(norm))


def test_statistics_that_every_norm_begins_with_are_refused() -> None:
    norm = nn.BatchNorm2d(4)
    with pytest.raises(ValueError, match=r"--optim\.freeze_norms keeps the statistics .* never trained; give it"):
        check_statistics(nn.Sequential(nn.InstanceNorm2d(4), norm))
    norm(torch.rand(2, 4, 3, 3))
    check_statistics(nn.Sequential(nn.InstanceNorm2d(4), norm))


def test_an_image_is_normalised_by_what_is_kept_whatever_is_beside_it() -> None:
    encoder = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    keep_statistics(encoder)
    images = torch.rand(2, 4, 3, 3)
    torch.testing.assert_close(encoder[0](images)[:1], encoder[0](images[:1]))
    torch.testing.assert_close(encoder[0](images), images, atol=1e-5, rtol=1e-4)  # mean 0 and variance 1
    assert encoder[1].training and encoder.train()[0].training
