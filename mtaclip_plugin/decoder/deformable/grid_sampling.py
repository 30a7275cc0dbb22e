"""Multi-scale deformable sampling by ``grid_sample``, on any device and in any compiled or exported graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.decoder.positions import LevelShapes
from mtaclip_plugin.decoder.recompute import recomputed


def grid_sampling(
    value: Tensor, offsets: Tensor, weights: Tensor, reference_points: Tensor, level_shapes: LevelShapes
) -> Tensor:
    """See ``deformable_sampling``.

    The samples, ``points`` times as large as the output, are made one level at a time and are never kept: the
    backward pass samples again.
    """
    output: Tensor | None = None
    levels = value.split([height * width for height, width in level_shapes], 1)
    for level, (level_value, (height, width)) in enumerate(zip(levels, level_shapes, strict=True)):
        arguments = (level_value, offsets[..., level, :, :], weights[..., level, :], reference_points, height, width)
        summed = recomputed(_sample_level, *arguments)
        output = summed if output is None else output + summed
    assert output is not None
    batch, length, heads = offsets.shape[:3]
    return output.view(batch, heads, -1, length).permute(0, 3, 1, 2)


def _sample_level(
    value: Tensor, offsets: Tensor, weights: Tensor, reference_points: Tensor, height: int, width: int
) -> Tensor:
    """(B·heads, d, S') weighted sums of the samples of one level."""
    value = value.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, (height, width))
    # (width, height), made on the device: a list's numbers would be sent there, for which the host waits.
    size = torch.linspace(width, height, 2, dtype=offsets.dtype, device=offsets.device)
    grid = 2 * (reference_points[:, None, None] + offsets / size) - 1
    # Cells innermost: so that weighting the samples runs along them, not along the few points.
    grid = grid.permute(0, 2, 3, 1, 4).flatten(0, 1)
    weights = weights.permute(0, 2, 3, 1).flatten(0, 1).unsqueeze(1)
    samples = F.grid_sample(value, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (samples * weights).sum(2)
