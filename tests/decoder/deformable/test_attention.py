from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mtaclip_plugin.decoder.deformable.attention import DeformableAttention, deformable_sampling
from mtaclip_plugin.decoder.deformable.grid_sampling import grid_sampling
from mtaclip_plugin.decoder.deformable.sparse_sampling import SparseSampling
from mtaclip_plugin.decoder.positions import cell_centers, sine_positions

SHAPES = ((2, 3), (4, 5), (7, 6))
WAYS = {"sparse": SparseSampling.apply, "grid": grid_sampling}


def literal_sampling(value: Tensor, offsets: Tensor, weights: Tensor, reference_points: Tensor) -> Tensor:
    """The formula, one number after the other; kept by autograd."""
    batch, queries, heads, _, points, _ = offsets.shape
    rows = []
    for b, s, h in torch.cartesian_prod(*(torch.arange(n) for n in (batch, queries, heads))).tolist():
        row, start = torch.zeros_like(value[0, 0, 0]), 0
        for level, (height, width) in enumerate(SHAPES):
            level_value = value[b, start : start + height * width, h].reshape(height, width, -1)
            start += height * width
            for point in range(points):
                x, y = (
                    reference_points[s, axis] * size - 0.5 + offsets[b, s, h, level, point, axis]
                    for axis, size in enumerate((width, height))
                )
                left, above = math.floor(x.item()), math.floor(y.item())
                for column, row_number in ((left, above), (left + 1, above), (left, above + 1), (left + 1, above + 1)):
                    if 0 <= column < width and 0 <= row_number < height:
                        share = (1 - (x - column).abs()) * (1 - (y - row_number).abs())
                        row = row + weights[b, s, h, level, point] * share * level_value[row_number, column]
        rows.append(row)
    return torch.stack(rows).view(batch, queries, heads, -1)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    cells, queries, heads, levels, points = sum(h * w for h, w in SHAPES), 9, 2, 3, 2
    value = torch.randn(2, cells, heads, 3, dtype=dtype, requires_grad=True)
    offsets = (torch.randn(2, queries, heads, levels, points, 2, dtype=dtype) * 2).requires_grad_()
    weights = torch.rand(2, queries, heads, levels, points, dtype=dtype, requires_grad=True)
    return value, offsets, weights, torch.rand(queries, 2, dtype=dtype)


@pytest.mark.parametrize("way", WAYS)
def test_equals_the_literal_way_forward_and_backward(way: str) -> None:
    tensors = inputs()
    output = WAYS[way](*tensors, SHAPES)
    expected = literal_sampling(*tensors)
    torch.testing.assert_close(output, expected)
    seed = torch.randn_like(output)
    for ours, theirs in zip(
        torch.autograd.grad(output, tensors[:3], seed), torch.autograd.grad(expected, tensors[:3], seed), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("way", WAYS)
def test_float32_differs_from_the_literal_way_by_rounding(way: str) -> None:
    value, offsets, weights, reference_points = (tensor.detach() for tensor in inputs(torch.float32))
    output = WAYS[way](value, offsets, weights, reference_points, SHAPES)
    torch.testing.assert_close(output, literal_sampling(value, offsets, weights, reference_points))


@pytest.mark.parametrize("way", WAYS)
def test_no_place_beyond_the_border_is_read(way: str) -> None:
    value, offsets, weights, reference_points = inputs()
    beyond = torch.full_like(offsets, -100.0)
    beyond[:, 1::2] = 1e9
    output = WAYS[way](value, beyond.requires_grad_(), weights, reference_points, SHAPES)
    assert not output.any()
    assert not any(grad.any() for grad in torch.autograd.grad(output.sum(), (value, beyond, weights)))


@pytest.mark.parametrize("way", WAYS)
def test_places_that_are_no_numbers_crash_nothing(way: str) -> None:
    value, offsets, weights, reference_points = inputs()
    with torch.no_grad():
        offsets[0, 0] = torch.nan
        offsets[0, 1] = torch.inf
    output = WAYS[way](value, offsets, weights, reference_points, SHAPES)
    output.sum().backward()
    assert output[0, 2:].isfinite().all() and output[1].isfinite().all()


@pytest.mark.parametrize("way", WAYS)
def test_keeps_no_samples_for_backward(way: str) -> None:
    tensors = inputs()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        WAYS[way](*tensors, SHAPES)
    inputs_kept = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    assert sum(size for storage, size in kept.items() if storage not in inputs_kept) <= 64


def test_a_cpu_takes_the_sparse_way_and_a_compiler_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [tensor.detach() for tensor in inputs()]
    taken: list[str] = []

    def watch(way: str) -> Callable[..., Tensor]:
        def sampled(*arguments: object) -> Tensor:
            taken.append(way)
            return WAYS[way](*arguments)

        return sampled

    module = "mtaclip_plugin.decoder.deformable.attention"
    monkeypatch.setattr(f"{module}.SparseSampling.apply", watch("sparse"))
    monkeypatch.setattr(f"{module}.grid_sampling", watch("grid"))
    outputs = [deformable_sampling(*tensors, SHAPES)]
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    outputs.append(deformable_sampling(*tensors, SHAPES))
    assert taken == ["sparse", "grid"]
    torch.testing.assert_close(*outputs)


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
    torch.testing.assert_close(attention(values, torch.zeros(20, 8), centers, [(4, 5)]), values)


def test_autocast_keeps_positions_exact() -> None:
    attention = DeformableAttention(32, num_heads=4)
    tokens = torch.randn(1, sum(h * w for h, w in SHAPES), 32)
    positions = torch.randn_like(tokens[0])
    centers = torch.cat([cell_centers(h, w, like=tokens) for h, w in SHAPES])
    expected = attention(tokens, positions, centers, SHAPES)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            attention(tokens, positions, centers, SHAPES).float(), expected, atol=0.03, rtol=0.03
        )


def test_sine_positions_by_hand() -> None:
    positions = sine_positions([(1, 4), (2, 3)], 8, like=torch.empty(0))[4:].view(2, 3, 8)
    y, x = 2 * math.pi * 1 / 2, 2 * math.pi * 3 / 3  # first row, last column
    expected = [f(a / p) for a in (y, x) for p in (1, 100) for f in (math.sin, math.cos)]
    assert positions[0, 2].tolist() == pytest.approx(expected, abs=1e-4)
