"""Multi-scale deformable sampling on a GPU in one kernel, written in Triton, and the switch that chooses it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mtaclip_plugin.decoder.positions import LevelShapes

_is_used = os.environ.get("MTACLIP_TRITON") == "1" and find_spec("triton") is not None


def use_triton(enabled: bool = True) -> None:
    """Chooses how all models of this process sample on a GPU: by a kernel in Triton, or by ``grid_sample``.

    The kernel is off until it is chosen, by this function or by the environment variable ``MTACLIP_TRITON=1``: its
    results are tested in Triton's interpreter, but no GPU has run it yet. It adds up the gradient of the values in no
    fixed order, as ``grid_sample`` does there. What it can not do, exported graphs, heads whose width is no power of
    two, and double precision, goes on through ``grid_sample``, and so does all that is not on a GPU.

    Args:
        enabled: whether by the kernel.

    Raises:
        ModuleNotFoundError: if the kernel is chosen and there is no Triton.
    """
    global _is_used
    if enabled and find_spec("triton") is None:
        raise ModuleNotFoundError("sampling by a kernel needs Triton, which comes with torch for GPUs on Linux only")
    _is_used = enabled


def uses_triton() -> bool:
    """Whether the kernel is chosen, for what it can do."""
    return _is_used


def takes_triton(value: Tensor, offsets: Tensor) -> bool:
    """Whether these are sampled by the kernel.

    Args:
        value: (B, S, heads, d).
        offsets: (B, S', heads, levels, points, 2).
    """
    channels = value.shape[-1]
    fits = channels & (channels - 1) == 0 and offsets.dtype == torch.float32
    return _is_used and fits and value.is_cuda and not torch.compiler.is_exporting()


def triton_sampling(
    value: Tensor, offsets: Tensor, weights: Tensor, reference_points: Tensor, level_shapes: LevelShapes
) -> Tensor:
    """See ``deformable_sampling``; the values and the output may be narrower than the float32 that it computes in."""
    sides = [side for shape in level_shapes for side in shape]
    sampled: Tensor = _sample(value, offsets, weights.to(offsets.dtype), reference_points.to(offsets.dtype), sides)
    return sampled


def _sizes(value: Tensor, offsets: Tensor) -> tuple[int, ...]:
    """B, S, S', heads, points, d."""
    return value.shape[0], value.shape[1], offsets.shape[1], value.shape[2], offsets.shape[4], value.shape[3]


# Compilers see one operation, which they neither look into nor stop at.
@torch.library.custom_op("mtaclip::deformable_sampling", mutates_args=(), device_types="cuda")
def _sample(
    value: Tensor, offsets: Tensor, weights: Tensor, reference_points: Tensor, level_shapes: Sequence[int]
) -> Tensor:
    from mtaclip_plugin.decoder.deformable import triton_kernels

    output = value.new_empty(*offsets.shape[:3], value.shape[-1])
    inputs = (tensor.contiguous() for tensor in (value, offsets, weights, reference_points))
    sizes = _sizes(value, offsets)
    triton_kernels.launch(triton_kernels.sample, *inputs, output, level_shapes=level_shapes, sizes=sizes)
    return output


@torch.library.custom_op("mtaclip::deformable_sampling_backward", mutates_args=(), device_types="cuda")
def _sample_backward(
    grad_output: Tensor,
    value: Tensor,
    offsets: Tensor,
    weights: Tensor,
    reference_points: Tensor,
    level_shapes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    from mtaclip_plugin.decoder.deformable import triton_kernels

    inputs = [tensor.contiguous() for tensor in (grad_output, value, offsets, weights, reference_points)]
    grads = (
        torch.zeros(value.shape, dtype=torch.float32, device=value.device),  # added to, in float32 whatever the values
        torch.empty_like(inputs[2]),
        torch.empty_like(inputs[3]),
    )
    sizes = _sizes(value, offsets)
    kernel = triton_kernels.sample_backward
    triton_kernels.launch(kernel, *inputs, *grads, level_shapes=level_shapes, sizes=sizes)
    return grads[0].to(value.dtype), *grads[1:]


@_sample.register_fake
def _(value: Tensor, offsets: Tensor, weights: Tensor, reference_points: Tensor, level_shapes: Sequence[int]) -> Tensor:
    return value.new_empty(*offsets.shape[:3], value.shape[-1])


@_sample_backward.register_fake
def _(
    grad_output: Tensor,
    value: Tensor,
    offsets: Tensor,
    weights: Tensor,
    reference_points: Tensor,
    level_shapes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), offsets.new_empty(offsets.shape), weights.new_empty(weights.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.level_shapes = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    return *_sample_backward(grad_output, *ctx.saved_tensors, ctx.level_shapes), None, None


_sample.register_autograd(_backward, setup_context=_keep)
