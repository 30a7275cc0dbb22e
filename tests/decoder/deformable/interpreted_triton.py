"""The kernels in Triton's interpreter: run by ``test_triton_sampling``, with TRITON_INTERPRET=1 before all imports."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtaclip_plugin.decoder.deformable import triton_sampling as module
from mtaclip_plugin.decoder.deformable.attention import DeformableAttention
from mtaclip_plugin.decoder.deformable.grid_sampling import grid_sampling
from mtaclip_plugin.decoder.deformable.triton_sampling import triton_sampling
from mtaclip_plugin.decoder.positions import LevelShapes, cell_centers
from tests.decoder.deformable import test_attention

SHAPES = ((2, 3), (7, 4))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}

# The interpreter takes tensors of a CPU, for which the operations have no kernel otherwise.
for operation in (module._sample, module._sample_backward):
    operation.register_kernel("cpu")(operation._init_fn)


def cells(shapes: LevelShapes) -> int:
    return sum(height * width for height, width in shapes)


def inputs(
    channels: int = 8,
    *,
    queries: int = 5,
    points: int = 2,
    dtype: torch.dtype = torch.float32,
    shapes: LevelShapes = SHAPES,
) -> tuple[Tensor, ...]:
    """Of two images and two heads; few samples, as the interpreter takes its time."""
    torch.manual_seed(channels)
    value = torch.randn(2, cells(shapes), 2, channels).to(dtype).requires_grad_()
    offsets = (torch.randn(2, queries, 2, len(shapes), points, 2) * 2).requires_grad_()
    weights = torch.rand(2, queries, 2, len(shapes), points, requires_grad=True)
    return value, offsets, weights, torch.rand(queries, 2)


def gradients(output: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output.dtype)
    return torch.autograd.grad(output, tensors[:3], seed)


# Of 256 numbers, a program has 4 rows: so the last one of 5 has less. Of 1 to 32, it has more than there are.
@pytest.mark.parametrize("channels", [1, 16, 32, 256])
def test_equals_grid_sampling_forward_and_backward(channels: int) -> None:
    tensors = inputs(channels, points=1 if channels == 256 else 2)
    output, expected = (way(*tensors, SHAPES) for way in (triton_sampling, grid_sampling))
    torch.testing.assert_close(output, expected, **CLOSE)
    for ours, theirs in zip(gradients(output, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_equals_the_literal_way() -> None:
    tensors = inputs(shapes=test_attention.SHAPES)
    output, expected = triton_sampling(*tensors, test_attention.SHAPES), test_attention.literal_sampling(*tensors)
    torch.testing.assert_close(output, expected, **CLOSE)
    for ours, theirs in zip(gradients(output, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_places_on_borders_and_centres() -> None:
    value, offsets, weights, reference_points = inputs(queries=9)
    # In halves from beyond one border to beyond the other: on edges, corners and centres of cells.
    steps = (torch.linspace(-1.5, 7.5, offsets[..., 0].numel()) * 2).round().view(offsets.shape[:-1]) / 2
    sides = torch.tensor(SHAPES, dtype=torch.float32).flip(-1)[:, None]
    places = torch.stack([steps, steps.flip(0)], -1)
    offsets = (places + 0.5 - reference_points[:, None, None, None] * sides).requires_grad_()
    tensors = (value, offsets, weights, reference_points)
    output, expected = (way(*tensors, SHAPES) for way in (triton_sampling, grid_sampling))
    torch.testing.assert_close(output, expected, **CLOSE)
    ours, theirs = gradients(output, tensors), gradients(expected, tensors)
    for index in (0, 2):  # at a centre, the slope along an axis is that of one side or the other, as rounding has it
        torch.testing.assert_close(ours[index], theirs[index], **CLOSE)


def test_what_lies_nowhere_adds_nothing() -> None:
    places = [-100.0, 1e9, -3e38, torch.inf, -torch.inf, torch.nan]
    value, offsets, weights, reference_points = inputs(queries=len(places) + 1)
    with torch.no_grad():
        for row, place in enumerate(places):
            offsets[0, row] = place
            offsets[1, row, ..., row % 2] = place
    tensors = (value, offsets, weights, reference_points)
    output = triton_sampling(*tensors, SHAPES)
    grads = gradients(output, tensors)
    for tensor in (output, *grads[1:]):
        assert not tensor[:, : len(places)].any() and tensor[:, -1].any()
    rest = tuple(tensor[:, -1:].detach().requires_grad_() for tensor in (offsets, weights))
    expected = grid_sampling(value, *rest, reference_points[-1:], SHAPES)
    torch.testing.assert_close(output[:, -1:], expected, **CLOSE)
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grads[0], torch.autograd.grad(expected, value, seed[:, -1:])[0], **CLOSE)


def test_narrow_values_are_summed_in_float32() -> None:
    dtype = torch.bfloat16
    tensors = inputs(dtype=dtype)
    output = triton_sampling(*tensors, SHAPES)
    wide = tuple(tensor.detach().float().requires_grad_() for tensor in tensors[:3])
    expected = grid_sampling(*wide, tensors[3], SHAPES)
    assert output.dtype == dtype
    close = {"atol": torch.finfo(dtype).eps, "rtol": torch.finfo(dtype).eps}  # one rounding, at the end
    torch.testing.assert_close(output.float(), expected, **close)
    seed = torch.randn(output.shape).to(dtype)
    ours = torch.autograd.grad(output, tensors[:3], seed)
    theirs = torch.autograd.grad(expected, wide, seed.float())
    assert [grad.dtype for grad in ours] == [dtype, torch.float32, torch.float32]
    torch.testing.assert_close(ours[0].float(), theirs[0], **close)
    for ours_wide, theirs_wide in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(ours_wide, theirs_wide, atol=1e-4, rtol=1e-4)


def test_tensors_in_any_order_of_memory() -> None:
    *tensors, reference_points = inputs(points=1)
    strided = [tensor.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for tensor in tensors]
    output, expected = (way(*strided, reference_points, SHAPES) for way in (triton_sampling, grid_sampling))
    torch.testing.assert_close(output, expected, **CLOSE)
    ones = torch.ones(()).expand_as(output)  # without an order at all, as a sum has it
    for ours, theirs in zip(
        torch.autograd.grad(output, strided, ones), torch.autograd.grad(expected, strided, ones), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_operations_are_such_that_compilers_can_use_them() -> None:
    tensors = inputs(1, queries=1, points=1, shapes=[(2, 3)])
    torch.library.opcheck(module._sample, (*tensors, [2, 3]))
    torch.library.opcheck(
        module._sample_backward, (torch.randn(2, 1, 2, 1), *(tensor.detach() for tensor in tensors), [2, 3])
    )


def test_a_compiled_attention_has_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtaclip_plugin.decoder.deformable.attention.takes_triton", lambda *_: True)
    attention = DeformableAttention(16, num_heads=2, num_levels=2, num_points=1)
    tokens, positions = torch.randn(2, cells(SHAPES), 16), torch.randn(cells(SHAPES), 16)
    centers = torch.cat([cell_centers(height, width, like=tokens) for height, width in SHAPES])
    expected = attention(tokens, positions, centers, SHAPES)
    operations: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        operations.extend(node.target for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(attention, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(tokens, positions, centers, SHAPES), expected)
    assert sum("mtaclip" in str(operation) for operation in operations) == 1
