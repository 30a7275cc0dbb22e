"""The kernels in Triton's interpreter: run by ``test_triton_sampling``, with TRITON_INTERPRET=1 before all imports."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtaclip_plugin.decoder.deformable import triton_sampling as module
from mtaclip_plugin.decoder.deformable.attention import DeformableAttention
from mtaclip_plugin.decoder.deformable.grid_sampling import grid_sampling
from mtaclip_plugin.decoder.deformable.triton_sampling import triton_sampling
from mtaclip_plugin.decoder.positions import cell_centers
from tests.decoder.deformable.test_attention import SHAPES, literal_sampling

CELLS = sum(height * width for height, width in SHAPES)

# The interpreter takes tensors of a CPU, for which the operations have no kernel otherwise.
for operation in (module._sample, module._sample_backward):
    operation.register_kernel("cpu")(operation._init_fn)


def inputs(channels: int = 8, queries: int = 9, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    heads, levels, points = 2, len(SHAPES), 2
    torch.manual_seed(channels)
    value = torch.randn(2, CELLS, heads, channels).to(dtype).requires_grad_()
    offsets = (torch.randn(2, queries, heads, levels, points, 2) * 2).requires_grad_()
    weights = torch.rand(2, queries, heads, levels, points, requires_grad=True)
    return value, offsets, weights, torch.rand(queries, 2)


def gradients(output: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output.dtype)
    return torch.autograd.grad(output, tensors[:3], seed)


# Of 256 numbers, a program has 4 rows: so the last one of 9 has less. Of 1 and 8 numbers, it has more than there are.
@pytest.mark.parametrize("channels", [1, 8, 16, 32, 256])
def test_equals_grid_sampling_forward_and_backward(channels: int) -> None:
    tensors = inputs(channels)
    output, expected = (way(*tensors, SHAPES) for way in (triton_sampling, grid_sampling))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(output, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_equals_the_literal_way() -> None:
    tensors = inputs()
    output, expected = triton_sampling(*tensors, SHAPES), literal_sampling(*tensors)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(output, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_places_on_the_border_and_on_centres() -> None:
    value, offsets, weights, reference_points = inputs(queries=4)
    # From one cell beyond the border to one beyond the other, in halves: on edges, corners and centres of cells.
    steps = torch.linspace(-1.5, 8.5, offsets[..., 0].numel()).view(offsets.shape[:-1])
    sides = torch.tensor(SHAPES, dtype=torch.float32).flip(-1)[:, None]
    places = (torch.stack([steps, steps.flip(0)], -1) * 2).round() / 2
    offsets = (places + 0.5 - reference_points[:, None, None, None] * sides).requires_grad_()
    tensors = (value, offsets, weights, reference_points)
    # A slope at a centre is that of one side or the other, as rounding has it: there the gradient is not compared.
    output, expected = (way(*tensors, SHAPES) for way in (triton_sampling, grid_sampling))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    for index in (0, 2):
        torch.testing.assert_close(
            gradients(triton_sampling(*tensors, SHAPES), tensors)[index],
            gradients(grid_sampling(*tensors, SHAPES), tensors)[index],
            atol=1e-4,
            rtol=1e-4,
        )


@pytest.mark.parametrize("place", [-100.0, 1e9, -3e38, torch.inf, -torch.inf, torch.nan])
def test_what_lies_nowhere_adds_nothing(place: float) -> None:
    value, offsets, weights, reference_points = inputs()
    with torch.no_grad():
        offsets[0, 0] = place
        offsets[1, 3, ..., 0] = place
    tensors = (value, offsets, weights, reference_points)
    output = triton_sampling(*tensors, SHAPES)
    assert not output[0, 0].any() and not output[1, 3].any()
    for grad in gradients(output, tensors):
        assert grad.isfinite().all()
        if grad.shape[1] == offsets.shape[1]:
            assert not grad[0, 0].any() and not grad[1, 3].any()
    weights_elsewhere = weights.detach().clone()
    weights_elsewhere[0, 0], weights_elsewhere[1, 3] = 0, 0
    expected = grid_sampling(value, offsets.nan_to_num(0, 0, 0), weights_elsewhere, reference_points, SHAPES)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_values_are_summed_in_float32(dtype: torch.dtype) -> None:
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
    tensors = inputs()
    strided = tuple(
        tensor.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for tensor in tensors[:3]
    )
    output = triton_sampling(*strided, tensors[3], SHAPES)
    torch.testing.assert_close(output, triton_sampling(*tensors, SHAPES))
    for ours, theirs in zip(
        torch.autograd.grad(output.sum(), strided),
        torch.autograd.grad(triton_sampling(*tensors, SHAPES).sum(), tensors[:3]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_operation_is_one_that_compilers_can_use() -> None:
    sides = [side for shape in SHAPES for side in shape]
    torch.library.opcheck(module._sample, (*inputs(queries=3), sides))
    tensors = [tensor.detach() for tensor in inputs(queries=3)]
    grad_output = torch.randn(2, 3, 2, 8)
    torch.library.opcheck(module._sample_backward, (grad_output, *tensors, sides))


def test_a_compiled_attention_has_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtaclip_plugin.decoder.deformable.attention.takes_triton", lambda *_: True)
    attention = DeformableAttention(16, num_heads=2)
    tokens, positions = torch.randn(2, CELLS, 16), torch.randn(CELLS, 16)
    centers = torch.cat([cell_centers(height, width, like=tokens) for height, width in SHAPES])
    expected = attention(tokens, positions, centers, SHAPES)
    operations: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        operations.extend(node.target for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(attention, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(tokens, positions, centers, SHAPES), expected)
    assert sum("mtaclip" in str(operation) for operation in operations) == 1
