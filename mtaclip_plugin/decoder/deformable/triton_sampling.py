"""Multi-scale deformable sampling on a GPU in one kernel, written in Triton, and the switch that chooses it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from shutil import which
from typing import Any

import torch
from torch import Tensor

from mtaclip_plugin.decoder.gpu import gpu_properties
from mtaclip_plugin.decoder.positions import LevelShapes

_choice: bool | None = {"0": False, "1": True}.get(os.environ.get("MTACLIP_TRITON", ""))
OLDEST = (7, 5)
"""Compute capability of the first GPUs that torch is still built for, with CUDA 13."""


def use_triton(enabled: bool | None = True) -> None:
    """Chooses how all models of this process sample on a GPU: by a kernel in Triton, or by ``grid_sample``.

    Without a choice, by this function or by the environment variable ``MTACLIP_TRITON`` (1 or 0), it is the kernel on
    NVIDIA's GPUs where Triton and a C compiler are there. A training step is faster with it and takes less memory. It
    adds up the gradient of the values in no fixed order, as ``grid_sample`` does there. What it can not do goes on
    through ``grid_sample``: exported graphs, heads whose width is no power of two, double precision, and what must be
    deterministic (which torch then refuses, or warns of). So does all that is not on a GPU.

    Args:
        enabled: whether by the kernel; ``None`` takes the choice back.

    Raises:
        ModuleNotFoundError: if the kernel is chosen and there is no Triton.
    """
    global _choice
    if enabled and find_spec("triton") is None:
        raise ModuleNotFoundError("sampling by a kernel needs Triton, which comes with torch for GPUs on Linux only")
    _choice = enabled


def uses_triton(device: torch.device) -> bool:
    """Whether the kernel samples on a device, for what it can do.

    Args:
        device: the model's.
    """
    return device.type == "cuda" and (_is_able() if _choice is None else _choice)


@torch.compiler.assume_constant_result
def _is_able() -> bool:
    return _can_make_kernels()


@cache
def _can_make_kernels() -> bool:
    """Whether Triton can make kernels here, as far as is seen without making one; GPUs of a machine are alike."""
    if torch.version.hip is not None or find_spec("triton") is None:  # on AMD's it was not tried
        return False
    known = gpu_properties()
    # Triton compiles kernels itself, but by a C compiler what starts them.
    compilers = ("gcc", "clang", os.environ.get("CC", "gcc"))
    return known is not None and (known.major, known.minor) >= OLDEST and any(map(which, compilers))


def takes_triton(value: Tensor, offsets: Tensor) -> bool:
    """Whether these are sampled by the kernel.

    Args:
        value: (B, S, heads, d).
        offsets: (B, S', heads, levels, points, 2).
    """
    channels = value.shape[-1]
    fits = channels & (channels - 1) == 0 and offsets.dtype == torch.float32
    free = not (torch.compiler.is_exporting() or torch.are_deterministic_algorithms_enabled())
    return fits and free and uses_triton(value.device)


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
