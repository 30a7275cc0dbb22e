"""Multi-scale deformable attention in pure PyTorch that recomputes its samples for the backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LevelShapes = Sequence[tuple[int, int]]


def deformable_sampling(value: Tensor, grid: Tensor, weights: Tensor, level_shapes: LevelShapes) -> Tensor:
    """Weighted sum of values sampled bilinearly on every level.

    ``out[n, :, s] = sum_l sum_p weights[n, s, l, p] * value_l[n, :, grid[n, l, s, p]]``

    The sampled values, points times levels as large as the output, are made one level at a time and are never
    kept: the backward pass samples again from the inputs.

    Args:
        value: (N, d, S) values of all levels, flattened and concatenated; N is batch times heads.
        grid: (N, levels, S', points, 2) sampling positions (x, y) in [-1, 1], as ``grid_sample`` reads them.
        weights: (N, S', levels, points) attention weights.
        level_shapes: height and width of each level; their areas sum to S.

    Returns:
        (N, d, S') sampled and summed values.
    """
    if torch.is_grad_enabled() and (value.requires_grad or grid.requires_grad or weights.requires_grad):
        sampled: Tensor = _RecomputedSampling.apply(value, grid, weights, level_shapes)
        return sampled
    return _sample(value, grid, weights, level_shapes)


def _levels(value: Tensor, level_shapes: LevelShapes) -> Iterator[tuple[Tensor, int, int]]:
    """Views (N, d, h, w) of ``value``, with the range each takes in its last dimension."""
    start = 0
    for height, width in level_shapes:
        end = start + height * width
        yield value[..., start:end].unflatten(-1, (height, width)), start, end
        start = end


def _grid_sample(value: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(value, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _sample(value: Tensor, grid: Tensor, weights: Tensor, level_shapes: LevelShapes) -> Tensor:
    output: Tensor | None = None
    for level, (level_value, _, _) in enumerate(_levels(value, level_shapes)):
        # No gradient is recorded here, so the samples can be weighted in place.
        summed = _grid_sample(level_value, grid[:, level]).mul_(weights[:, None, :, level]).sum(-1)
        output = summed if output is None else output + summed
    assert output is not None
    return output


class _RecomputedSampling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, grid: Tensor, weights: Tensor, level_shapes: LevelShapes) -> Tensor:
        ctx.save_for_backward(value, grid, weights)
        ctx.level_shapes = level_shapes
        return _sample(value, grid, weights, level_shapes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        value, grid, weights = ctx.saved_tensors
        grad_value, grad_grid = torch.empty_like(value), torch.empty_like(grid)
        grad_weights = torch.empty_like(weights)
        grad_output = grad_output.unsqueeze(-1)
        for level, (level_value, start, end) in enumerate(_levels(value, ctx.level_shapes)):
            level_grid = grid[:, level]
            grad_weights[:, :, level] = _grid_sample(level_value, level_grid).mul_(grad_output).sum(1)
            bilinear, zeros, align_corners = 0, 0, False
            grad_level, grad_grid[:, level] = torch.ops.aten.grid_sampler_2d_backward(
                grad_output * weights[:, None, :, level],
                level_value,
                level_grid,
                bilinear,
                zeros,
                align_corners,
                (True, True),
            )
            grad_value[..., start:end] = grad_level.flatten(2)
        return grad_value, grad_grid, grad_weights, None


class DeformableAttention(nn.Module):
    """Each token reads a few learned positions around itself on every level (Zhu et al., Deformable DETR, eq. 3).

    Args:
        channels: token width D.
        num_heads: attention heads; must divide ``channels``.
        num_levels: feature levels.
        num_points: sampled positions for each head and level.
    """

    def __init__(self, channels: int, num_heads: int = 8, num_levels: int = 3, num_points: int = 4) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(channels, samples * 2)
        self.attention_weights = nn.Linear(channels, samples)
        self.value_projection = nn.Linear(channels, channels)
        self.output_projection = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts each head looking in its own direction, its points one to ``num_points`` pixels away."""
        for projection in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(projection.weight)
        angles = torch.arange(self.num_heads) * (2.0 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().max(-1, keepdim=True).values
        distances = torch.arange(1, self.num_points + 1)
        offsets = directions[:, None, None] * distances[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, queries: Tensor, values: Tensor, reference_points: Tensor, level_shapes: LevelShapes) -> Tensor:
        """Attends from every token to ``num_points`` positions on every level.

        Args:
            queries: (B, S', D) tokens with their positions added.
            values: (B, S, D) tokens of all levels, flattened and concatenated.
            reference_points: (S', 2) centre (x, y) of each query in [0, 1].
            level_shapes: height and width of each level.

        Returns:
            (B, S', D).
        """
        batch, length, channels = queries.shape
        samples = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(queries).view(batch, length, *samples, 2)
        weights = self.attention_weights(queries).view(batch, length, self.num_heads, -1).softmax(-1)

        # Positions need more than the eight bits of a bfloat16, and grid_sample wants one dtype: at least float32.
        dtype = torch.promote_types(queries.dtype, torch.float32)
        sizes = torch.tensor([(w, h) for h, w in level_shapes], dtype=dtype, device=queries.device)
        grid = 2 * (reference_points[:, None, None, None] + offsets.to(dtype) / sizes[:, None]) - 1
        grid = grid.permute(0, 2, 3, 1, 4, 5).flatten(0, 1)
        weights = weights.to(dtype).view(batch, length, *samples).transpose(1, 2).flatten(0, 1)
        value = self.value_projection(values).to(dtype).transpose(1, 2)
        value = value.reshape(batch * self.num_heads, channels // self.num_heads, -1)

        sampled = deformable_sampling(value, grid, weights, level_shapes).to(queries.dtype)
        return self.output_projection(sampled.view(batch, channels, length).transpose(1, 2))
