"""Multi-scale deformable sampling on a CPU, as the product of a sparse matrix and the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor

from mtaclip_plugin.decoder.positions import LevelShapes


@dataclass(frozen=True)
class _Corners:
    """The four cells around each sample: left and right, above and below.

    Attributes:
        cells: (B, S', heads, 4, levels·points) int32 rows of the flattened values (B·S·heads, d); above left, above
            right, below left, below right.
        x: two (B, S', heads, levels·points), the interpolation weights of left and right; 0 beyond the border.
        y: two of the same shape, those of above and below.
        inside_x: two bool of the same shape, whether left and right are inside of the map.
        inside_y: two bool of the same shape, whether above and below are.
    """

    cells: Tensor
    x: tuple[Tensor, Tensor]
    y: tuple[Tensor, Tensor]
    inside_x: tuple[Tensor, Tensor]
    inside_y: tuple[Tensor, Tensor]

    @property
    def interpolation(self) -> Tensor:
        """(B, S', heads, 4, levels·points) bilinear weights, in the order of the cells."""
        return torch.stack([y * x for y in self.y for x in self.x], -2)


class SparseSampling(torch.autograd.Function):
    """``deformable_sampling`` for tensors on a CPU.

    Each output row is a sum of 4·levels·points rows of the values, so the whole is a sparse matrix, of as many weights
    a row, times the values. That reads each row once where it lies, d contiguous numbers; ``grid_sample`` instead
    makes all samples before they are summed, and gathers their d numbers from d places. The gradient of the values
    is the transposed product, that of the weights the product of output gradient and values at the matrix's entries.
    The matrix is made anew for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, offsets: Tensor, weights: Tensor, reference_points: Tensor, level_shapes: LevelShapes
    ) -> Tensor:
        """See ``deformable_sampling``."""
        ctx.save_for_backward(value, offsets, weights, reference_points)
        ctx.level_shapes = level_shapes
        return sparse_sampling(value, offsets, weights, reference_points, level_shapes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of the values, the offsets and the weights."""
        value, offsets, weights, reference_points = ctx.saved_tensors
        corners = _find_corners(offsets, reference_points, ctx.level_shapes, value.shape[1])
        interpolation, attention = corners.interpolation, weights.flatten(-2)
        entries, grad_rows = interpolation * attention.unsqueeze(-2), grad_output.flatten(0, 2)

        with torch.enable_grad():
            summed = _product(corners.cells, entries.requires_grad_(), value)
        (products,) = torch.autograd.grad(summed, entries, grad_rows)

        cells = corners.cells.flatten()
        starts = torch.arange(0, len(cells) + 1, len(cells) // len(grad_rows), dtype=torch.int32)
        shape = (len(grad_rows), value.shape[:3].numel())
        matrix = csr_matrix((entries.detach().flatten().numpy(), cells.numpy(), starts.numpy()), shape)
        grad_value = torch.from_numpy(matrix.T @ grad_rows.numpy())

        grad_weights = (products * interpolation).sum(-2)
        above_left, above_right, below_left, below_right = products.unbind(-2)
        (left, right), (above, below) = corners.inside_x, corners.inside_y
        (x_left, x_right), (y_above, y_below) = corners.x, corners.y
        grad_x = (above_right * y_above + below_right * y_below) * right - (
            above_left * y_above + below_left * y_below
        ) * left
        grad_y = (below_left * x_left + below_right * x_right) * below - (
            above_left * x_left + above_right * x_right
        ) * above
        grad_offsets = torch.stack([grad_x * attention, grad_y * attention], -1).view_as(offsets)
        return grad_value.view_as(value), grad_offsets, grad_weights.view_as(weights), None, None


def sparse_sampling(
    value: Tensor, offsets: Tensor, weights: Tensor, reference_points: Tensor, level_shapes: LevelShapes
) -> Tensor:
    """See ``deformable_sampling``; without a gradient."""
    corners = _find_corners(offsets, reference_points, level_shapes, value.shape[1])
    entries = corners.interpolation * weights.flatten(-2).unsqueeze(-2)
    return _product(corners.cells, entries, value).view(*offsets.shape[:3], -1)


def _product(cells: Tensor, entries: Tensor, value: Tensor) -> Tensor:
    """(B·S'·heads, d) the sparse matrix of these entries at these rows of the values, times the values."""
    indices, weights = (tensor.flatten(0, 2).flatten(1) for tensor in (cells, entries))
    return F.embedding_bag(indices, value.detach().flatten(0, 2), mode="sum", per_sample_weights=weights)


def _find_corners(offsets: Tensor, reference_points: Tensor, level_shapes: LevelShapes, length: int) -> _Corners:
    batch, _, heads, _, points, _ = offsets.shape
    like: dict[str, Any] = {"dtype": offsets.dtype, "device": offsets.device}
    heights, widths = (torch.tensor(side, **like).repeat_interleave(points) for side in zip(*level_shapes, strict=True))
    areas = torch.tensor([0, *(h * w for h, w in level_shapes[:-1])], dtype=torch.int32, device=offsets.device)
    # Cell c of head h of image b is row (b * length + c) * heads + h of the values.
    image = torch.arange(batch, dtype=torch.int32, device=offsets.device).mul_(length).view(-1, 1, 1, 1)
    first = areas.cumsum(0, dtype=torch.int32).repeat_interleave(points) + image
    head = torch.arange(heads, dtype=torch.int32, device=offsets.device).view(-1, 1)

    x, y = offsets.flatten(-3, -2).unbind(-1)
    columns, x_weights, inside_x = _around(x + (reference_points[:, 0, None, None] * widths - 0.5), widths)
    rows, y_weights, inside_y = _around(y + (reference_points[:, 1, None, None] * heights - 0.5), heights)
    starts = [row.mul_(widths.int()).add_(first) for row in rows]
    cells = torch.stack([(start + column).mul_(heads).add_(head) for start in starts for column in columns], -2)
    return _Corners(cells, x_weights, y_weights, inside_x, inside_y)


def _around(
    position: Tensor, size: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The cells before and after positions on an axis: their numbers, interpolation weights, and which are inside."""
    before = position.floor()
    fraction = position - before
    last = size - 1
    inside = (before >= 0) & (before <= last), (before >= -1) & (before < last)
    # Numbers of cells beyond the border, and of positions that are not finite, are those of some cell inside.
    most, least = last.int(), torch.zeros((), dtype=torch.int32, device=size.device)
    number = before.int()
    numbers = number.clamp(least, most), (number + 1).clamp_(least, most)
    weights = (1 - fraction) * inside[0], fraction * inside[1]
    return numbers, weights, inside
