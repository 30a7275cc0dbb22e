"""The Triton kernels of multi-scale deformable sampling; imported only where Triton is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# A program has ROWS tokens of one head of one image. Tensors are (rows) or (rows, d): the d numbers of a cell lie side
# by side in memory, so that a corner of a sample is read at once. Images of another size need no other kernel: sizes
# are no constants, and those of levels are floating-point numbers, as Triton makes kernels of their own for some
# integers.

NUMBERS = 1024
"""In the output of a program: eight for each of its 128 threads, in bfloat16 a load of 16 bytes."""


@triton.jit
def _around(offsets, reference_points, place, rows, inside, height, width):
    """The cell above and left of each sample, where in it the sample lies, and whether it touches the map at all."""
    x = tl.load(reference_points + rows * 2, inside, 0.0) * width - 0.5 + tl.load(offsets + place * 2, inside, 0.0)
    y = tl.load(reference_points + rows * 2 + 1, inside, 0.0) * height - 0.5
    y += tl.load(offsets + place * 2 + 1, inside, 0.0)
    # False for what is no number, too; only then is it safe to make whole numbers of it.
    near = inside & (x >= -1) & (x < width) & (y >= -1) & (y < height)
    x, y = tl.where(near, x, 0.0), tl.where(near, y, 0.0)
    left, above = tl.floor(x), tl.floor(y)
    return left.to(tl.int32), above.to(tl.int32), x - left, y - above, near


@triton.jit
def _cells(row, column, near, height, width, start, stride, channel):
    """Where the numbers (rows, d) of these cells are among the values of a head, and which cells there are."""
    there = near & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    cell = start + row * tl.cast(width, tl.int32) + column
    return cell[:, None] * stride + channel[None, :], there[:, None]


@triton.jit(do_not_specialize=["cells", "queries"])
def sample(
    value,
    offsets,
    weights,
    reference_points,
    output,
    level_shapes,
    cells,
    queries,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """``deformable_sampling``; contiguous tensors, those but the values and the output of float32."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    image, head = (tl.program_id(1) // HEADS).to(tl.int64), tl.program_id(1) % HEADS
    inside, channel = rows < queries, tl.arange(0, D)
    value += (image * cells * HEADS + head) * D
    first = image * queries * HEADS + head  # of the rows of all heads of all images
    offsets += first * LEVELS * POINTS * 2
    weights += first * LEVELS * POINTS

    total = tl.zeros((ROWS, D), tl.float32)
    start = 0
    for level in tl.static_range(LEVELS):
        height, width = level_shapes[2 * level], level_shapes[2 * level + 1]
        for point in range(POINTS):
            place = rows * (HEADS * LEVELS * POINTS) + level * POINTS + point
            left, above, x, y, near = _around(offsets, reference_points, place, rows, inside, height, width)
            weight = tl.load(weights + place, inside, 0.0)
            for below in tl.static_range(2):
                for right in tl.static_range(2):
                    where, there = _cells(above + below, left + right, near, height, width, start, HEADS * D, channel)
                    share = (x if right else 1 - x) * (y if below else 1 - y) * weight
                    total += share[:, None] * tl.load(value + where, there, 0.0).to(tl.float32)
        start += tl.cast(height * width, tl.int32)

    output += first * D
    tl.store(
        output + rows[:, None] * (HEADS * D) + channel[None, :],
        total.to(output.dtype.element_ty),
        inside[:, None],
    )


@triton.jit(do_not_specialize=["cells", "queries"])
def sample_backward(
    grad_output,
    value,
    offsets,
    weights,
    reference_points,
    grad_value,
    grad_offsets,
    grad_weights,
    level_shapes,
    cells,
    queries,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Gradients of the values, added to zeros of float32, of the offsets and of the weights."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    image, head = (tl.program_id(1) // HEADS).to(tl.int64), tl.program_id(1) % HEADS
    inside, channel = rows < queries, tl.arange(0, D)
    value += (image * cells * HEADS + head) * D
    grad_value += (image * cells * HEADS + head) * D
    first = image * queries * HEADS + head
    offsets += first * LEVELS * POINTS * 2
    grad_offsets += first * LEVELS * POINTS * 2
    weights += first * LEVELS * POINTS
    grad_weights += first * LEVELS * POINTS
    grad_output += first * D
    grad = tl.load(grad_output + rows[:, None] * (HEADS * D) + channel[None, :], inside[:, None], 0.0).to(tl.float32)

    start = 0
    for level in tl.static_range(LEVELS):
        height, width = level_shapes[2 * level], level_shapes[2 * level + 1]
        for point in range(POINTS):
            place = rows * (HEADS * LEVELS * POINTS) + level * POINTS + point
            left, above, x, y, near = _around(offsets, reference_points, place, rows, inside, height, width)
            weight = tl.load(weights + place, inside, 0.0)
            sampled = tl.zeros((ROWS, D), tl.float32)
            along_x = tl.zeros((ROWS, D), tl.float32)
            along_y = tl.zeros((ROWS, D), tl.float32)
            for below in tl.static_range(2):
                for right in tl.static_range(2):
                    where, there = _cells(above + below, left + right, near, height, width, start, HEADS * D, channel)
                    number = tl.load(value + where, there, 0.0).to(tl.float32)
                    share_x, share_y = x if right else 1 - x, y if below else 1 - y
                    sampled += (share_x * share_y)[:, None] * number
                    along_x += (share_y if right else -share_y)[:, None] * number
                    along_y += (share_x if below else -share_x)[:, None] * number
                    tl.atomic_add(
                        grad_value + where, (share_x * share_y * weight)[:, None] * grad, there, sem="relaxed"
                    )
            tl.store(grad_weights + place, tl.sum(sampled * grad, 1), inside)
            tl.store(grad_offsets + place * 2, tl.sum(along_x * grad, 1) * weight, inside)
            tl.store(grad_offsets + place * 2 + 1, tl.sum(along_y * grad, 1) * weight, inside)
        start += tl.cast(height * width, tl.int32)


def launch(kernel: Any, *tensors: Tensor, level_shapes: Sequence[int], sizes: tuple[int, ...]) -> None:
    """Starts a kernel on the tensors' device.

    Args:
        kernel: one of this file.
        *tensors: its tensors, contiguous.
        level_shapes: height and width of each level, one after the other.
        sizes: B, S, S', heads, points, d.
    """
    batch, cells, queries, heads, points, channels = sizes
    rows = max(1, NUMBERS // channels)
    grid = (triton.cdiv(queries, rows), batch * heads)
    with torch.cuda.device_of(tensors[0]):  # Triton starts kernels on the current one
        kernel[grid](
            *tensors,
            tuple(map(float, level_shapes)),
            cells,
            queries,
            HEADS=heads,
            LEVELS=len(level_shapes) // 2,
            POINTS=points,
            D=channels,
            ROWS=rows,
        )
