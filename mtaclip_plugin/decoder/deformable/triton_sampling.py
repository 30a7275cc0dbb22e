"""Multi-scale deformable sampling on a GPU in one kernel, written in Triton, and the switch that chooses it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mtaclip_plugin.decoder.positions import LevelShapes


def _of_environment() -> bool | None:
    value = os.environ.get("MTACLIP_TRITON")
    if value not in (None, "", "0", "1"):
        raise ValueError(f"the environment variable MTACLIP_TRITON is {value!r}; set it to 1 or 0, or not at all.")
    if value == "1":
        _need_triton()
    return value == "1" if value else None


def _need_triton() -> None:
    if find_spec("triton") is None:
        raise ModuleNotFoundError("sampling by a kernel needs Triton, which comes with torch for GPUs on Linux only")


_choice = _of_environment()


def use_triton(enabled: bool | None = True) -> None:
    """Chooses how all models of this process sample on a GPU: by a kernel in Triton, or by ``grid_sample``.

    Without a choice, by this function or by the environment variable ``MTACLIP_TRITON`` (1 or 0), it is the kernel on
    NVIDIA's GPUs for which Triton can make one, which takes less memory and, with many images, less time. It adds up
    the gradient of the values in no fixed order, as ``grid_sample`` does there. What it can not do goes on through
    ``grid_sample``: exported and traced graphs, heads whose width is no power of two, double precision, and what must
    be deterministic (which torch then refuses, or warns of). So does all that is not on a GPU.

    Args:
        enabled: whether by the kernel; ``None`` is what the environment variable says.

    Raises:
        ModuleNotFoundError: if the kernel is chosen and there is no Triton.
    """
    global _choice
    if enabled:
        _need_triton()
    _choice = _of_environment() if enabled is None else enabled


def samples_by_kernel(device: torch.device, channels: int) -> bool:
    """Whether the kernel samples here, of what is not in double precision.

    Args:
        device: the model's.
        channels: d, the width of a head.
    """
    fits = device.type == "cuda" and channels & (channels - 1) == 0
    # A file must load without this package.
    as_file = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    if not fits or as_file or torch.are_deterministic_algorithms_enabled():
        return False
    return _is_able(device.index) if _choice is None else _choice


def takes_triton(value: Tensor, offsets: Tensor) -> bool:
    """Whether these are sampled by the kernel.

    Args:
        value: (B, S, heads, d).
        offsets: (B, S', heads, levels, points, 2).
    """
    return offsets.dtype == torch.float32 and samples_by_kernel(value.device, value.shape[-1])


@torch.compiler.assume_constant_result
def _is_able(index: int | None) -> bool:
    return _makes_kernels(index)


@cache
def _makes_kernels(index: int | None) -> bool:
    """Whether Triton makes kernels for a GPU, for which it needs more than itself: a C compiler, Python's headers.

    It is tried once, on one sample.
    """
    if torch.version.hip is not None or find_spec("triton") is None:  # on AMD's GPUs nobody has tried it
        return False
    one = torch.zeros(1, 1, 1, 1, device=f"cuda:{index or 0}")
    try:
        with torch.no_grad():
            _sample(one, one.new_zeros(1, 1, 1, 1, 1, 2), one[None], one.new_zeros(1, 2), [1, 1])
    except Exception as error:  # whatever a compiler ends in
        warnings.warn(
            "Triton can make no kernel here, so deformable attention goes on through grid_sample, which is slower and "
            f"takes more memory: {error}. MTACLIP_TRITON=0 chooses that without a try.",
            stacklevel=2,
        )
        return False
    return True


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
