from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.decoder.deformable_attention import DeformableAttention, deformable_sampling
from mtaclip_plugin.decoder.positions import cell_centers, sine_positions

SHAPES = ((2, 3), (4, 5), (7, 6))


def literal_sampling(value: Tensor, grid: Tensor, weights: Tensor) -> Tensor:
    """All samples of all levels at once, kept by autograd."""
    levels, start = [], 0
    for level, (height, width) in enumerate(SHAPES):
        level_value = value[..., start : start + height * width].reshape(*value.shape[:2], height, width)
        levels.append(F.grid_sample(level_value, grid[:, level], align_corners=False))
        start += height * width
    return (torch.stack(levels, 3) * weights[:, None]).sum((-1, -2))


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    value = torch.randn(4, 3, sum(h * w for h, w in SHAPES), dtype=dtype, requires_grad=True)
    grid = (torch.rand(4, 3, 9, 2, 2, dtype=dtype) * 2.4 - 1.2).requires_grad_()
    weights = torch.rand(4, 9, 3, 2, dtype=dtype, requires_grad=True)
    return value, grid, weights


def test_equals_the_literal_way_forward_and_backward() -> None:
    tensors = inputs()
    output = deformable_sampling(*tensors, SHAPES)
    expected = literal_sampling(*tensors)
    torch.testing.assert_close(output, expected)
    seed = torch.randn_like(output)
    for ours, theirs in zip(
        torch.autograd.grad(output, tensors, seed), torch.autograd.grad(expected, tensors, seed), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_keeps_no_samples_for_backward() -> None:
    tensors = inputs()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        deformable_sampling(*tensors, SHAPES)
    assert sum(kept) == sum(t.numel() for t in tensors)


def test_without_gradients_it_is_the_same_function() -> None:
    tensors = inputs()
    with torch.no_grad():
        assert torch.equal(deformable_sampling(*tensors, SHAPES), deformable_sampling(*tensors, SHAPES))
    torch.testing.assert_close(deformable_sampling(*[t.detach() for t in tensors], SHAPES), literal_sampling(*tensors))


def test_each_head_starts_by_looking_its_own_way() -> None:
    attention = DeformableAttention(32, num_heads=4, num_levels=3, num_points=2)
    offsets = attention.sampling_offsets(torch.randn(32)).view(4, 3, 2, 2)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(offsets[:, 1, 0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[:, 2, 1], 2 * expected, atol=1e-6, rtol=0)


def test_a_token_reads_the_value_at_its_own_place() -> None:
    # One head, one point, no offset: bilinear sampling at the cell's centre is the cell itself.
    attention = DeformableAttention(8, num_heads=1, num_levels=1, num_points=1)
    with torch.no_grad():
        attention.sampling_offsets.bias.zero_()
        for projection in (attention.value_projection, attention.output_projection):
            projection.weight.copy_(torch.eye(8))
    values = torch.randn(2, 20, 8)
    centers = cell_centers(4, 5, like=values)
    torch.testing.assert_close(attention(values, values, centers, [(4, 5)]), values)


def test_autocast_keeps_positions_exact() -> None:
    attention = DeformableAttention(32, num_heads=4)
    tokens = torch.randn(1, sum(h * w for h, w in SHAPES), 32)
    centers = torch.cat([cell_centers(h, w, like=tokens) for h, w in SHAPES])
    expected = attention(tokens, tokens, centers, SHAPES)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention(tokens, tokens, centers, SHAPES).float(), expected, atol=0.03, rtol=0.03)


def test_sine_positions_by_hand() -> None:
    positions = sine_positions(2, 3, 8, like=torch.empty(0)).view(2, 3, 8)
    y, x = 2 * math.pi * 1 / 2, 2 * math.pi * 3 / 3  # first row, last column
    expected = [f(a / p) for a in (y, x) for p in (1, 100) for f in (math.sin, math.cos)]
    assert positions[0, 2].tolist() == pytest.approx(expected, abs=1e-4)
