"""Where a feature map's cells are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LevelShapes = Sequence[tuple[int, int]]
"""Height and width of each level of a pyramid whose cells are flattened and concatenated."""


def sine_positions(level_shapes: LevelShapes, channels: int, *, like: Tensor) -> Tensor:
    """Sine and cosine embedding of each cell's row and column, scaled to its map's size (Carion et al., DETR).

    Args:
        level_shapes: rows and columns of each map.
        channels: size of the embedding D, a multiple of 4: half for the row, half for the column.
        like: a tensor of the dtype and on the device that the result shall have.

    Returns:
        (S, D), cells of each map in row-major order, one map after the other.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    frequencies = torch.arange(channels // 4, dtype=dtype, device=like.device)
    periods = 10000 ** (4 * frequencies / channels)
    sides = [side for shape in level_shapes for side in shape]
    cells = torch.cat([torch.arange(1, side + 1, dtype=dtype, device=like.device) / (side + 1e-6) for side in sides])
    angles = (cells * 2 * math.pi)[:, None] / periods
    embedded = torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(like.dtype).split(sides)
    levels = [
        torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], -1).flatten(0, 1)
        for (height, width), rows, columns in zip(level_shapes, embedded[::2], embedded[1::2], strict=True)
    ]
    return torch.cat(levels)


def cell_centers(height: int, width: int, *, like: Tensor) -> Tensor:
    """(height * width, 2) centre (x, y) of each cell in [0, 1], row by row; as ``like``, but at least float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    rows = (torch.arange(height, dtype=dtype, device=like.device) + 0.5) / height
    columns = (torch.arange(width, dtype=dtype, device=like.device) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)
