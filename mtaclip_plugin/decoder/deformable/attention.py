"""Multi-scale deformable attention in pure PyTorch that recomputes its samples for the backward pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mtaclip_plugin.decoder.deformable.grid_sampling import grid_sampling
from mtaclip_plugin.decoder.deformable.sparse_sampling import SparseSampling, sparse_sampling
from mtaclip_plugin.decoder.deformable.triton_sampling import takes_triton, triton_sampling
from mtaclip_plugin.decoder.positions import LevelShapes
from mtaclip_plugin.decoder.recompute import recomputed


def deformable_sampling(
    value: Tensor, offsets: Tensor, weights: Tensor, reference_points: Tensor, level_shapes: LevelShapes
) -> Tensor:
    """Weighted sum of values sampled bilinearly on every level, zero beyond its border.

    ``out[b, s, h] = sum_l sum_p weights[b, s, h, l, p] * value_l[b, :, h] at reference[s] + offsets[b, s, h, l, p]``

    What is kept for the backward pass are the inputs alone.

    Args:
        value: (B, S, heads, d) values of all levels, flattened and concatenated; may be narrower than the others.
        offsets: (B, S', heads, levels, points, 2) (x, y) from the reference point, in cells of the level.
        weights: (B, S', heads, levels, points) attention weights.
        reference_points: (S', 2) (x, y) in [0, 1].
        level_shapes: height and width of each level; their areas sum to S.

    Returns:
        (B, S', heads, d) sampled and summed values, of the dtype of the values.
    """
    if takes_triton(value, offsets):
        return triton_sampling(value, offsets, weights, reference_points, level_shapes)
    inputs = (value.to(offsets.dtype), offsets, weights, reference_points, level_shapes)  # of one dtype for the others
    sampled: Tensor
    if value.device.type == "cpu" and not torch.compiler.is_compiling():
        sampled = SparseSampling.apply(*inputs)
    elif value.device.type == "cpu" and not torch.compiler.is_exporting() and not torch.is_grad_enabled():
        sampled = sparse_sampling(*inputs)
    else:
        sampled = grid_sampling(*inputs)
    return sampled.to(value.dtype)


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

    def forward(self, tokens: Tensor, positions: Tensor, reference_points: Tensor, level_shapes: LevelShapes) -> Tensor:
        """Attends from every token to ``num_points`` positions on every level.

        Args:
            tokens: (B, S, D) of all levels, flattened and concatenated.
            positions: (S, D) what is added to the tokens to ask where to look.
            reference_points: (S, 2) centre (x, y) of each token in [0, 1].
            level_shapes: height and width of each level.

        Returns:
            (B, S, D).
        """
        samples = (self.num_heads, self.num_levels, self.num_points)
        # Places need more than the eight bits of a bfloat16.
        dtype = torch.promote_types(tokens.dtype, torch.float32)
        offsets = self._look(self.sampling_offsets, tokens, positions).to(dtype).unflatten(-1, (*samples, 2))
        weights = self._look(self.attention_weights, tokens, positions).to(dtype).unflatten(-1, (self.num_heads, -1))
        value = self.value_projection(tokens).unflatten(-1, (self.num_heads, -1))
        sampled = deformable_sampling(
            value, offsets, weights.softmax(-1).unflatten(-1, samples[1:]), reference_points, level_shapes
        )
        return self.output_projection(sampled.flatten(2))

    @staticmethod
    def _look(projection: nn.Linear, tokens: Tensor, positions: Tensor) -> Tensor:
        """``projection(tokens + positions)``, without keeping the sum (B, S, D) for the backward pass."""
        return recomputed(lambda tokens: projection(tokens + positions), tokens)
