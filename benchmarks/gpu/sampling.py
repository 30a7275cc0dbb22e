"""Deformable sampling by the kernel in Triton beside ``grid_sample``: the same numbers, and seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Outcome
from benchmarks.gpu.parity import difference
from benchmarks.measure import time_in_turn
from benchmarks.report import Section
from mtaclip_plugin.decoder.deformable.grid_sampling import grid_sampling
from mtaclip_plugin.decoder.deformable.triton_sampling import triton_sampling

HEADS, WIDTH, POINTS = 8, 32, 4
ROUNDS = 20


@dataclass(frozen=True)
class Inputs:
    """What one layer of the pixel decoder samples, of random values.

    Attributes:
        tensors: values, offsets and weights, which learn.
        reference_points: (S, 2).
        level_shapes: height and width of each level.
    """

    tensors: tuple[Tensor, Tensor, Tensor]
    reference_points: Tensor
    level_shapes: tuple[tuple[int, int], ...]

    @classmethod
    def random(cls, *, batch: int, side: int, dtype: torch.dtype, device: torch.device) -> Inputs:
        """For images of a side; offsets and weights are float32, of which bfloat16 has too few digits."""
        shapes = tuple((side // stride, side // stride) for stride in (32, 16, 8))
        cells = sum(height * width for height, width in shapes)
        generator = torch.Generator().manual_seed(0)
        samples = (batch, cells, HEADS, len(shapes), POINTS)
        value = torch.randn(batch, cells, HEADS, WIDTH, generator=generator).to(device, dtype)
        weights = torch.randn(*samples, generator=generator).flatten(-2).softmax(-1).view(samples).to(device)
        points = torch.rand(cells, 2, generator=generator).to(device)
        around = torch.tensor([[width, height] for height, width in shapes], device=device)[:, None]
        reference = points[:, None, None, None] * around - 0.5
        place = reference + 4 * torch.randn(*samples, 2, generator=generator).to(device)
        # At a pixel's centre the slope jumps, and rounding would choose one of the two.
        offsets = place.floor() + 0.05 + 0.9 * torch.rand(*samples, 2, generator=generator).to(device) - reference
        value, offsets, weights = (tensor.requires_grad_() for tensor in (value, offsets, weights))
        return cls((value, offsets, weights), points, shapes)

    def by_kernel(self) -> list[Tensor]:
        """Output and gradients by the kernel in Triton."""
        return self._run(triton_sampling, *self.tensors)

    def by_grid_sample(self) -> list[Tensor]:
        """The same by ``grid_sample``, which takes tensors of one type."""
        value, offsets, weights = self.tensors
        return self._run(grid_sampling, value.float(), offsets, weights)

    def _run(self, sampling: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
        output = sampling(*tensors, self.reference_points, self.level_shapes)
        return [output, *torch.autograd.grad(output, self.tensors, torch.ones_like(output))]


def measure_sampling(bench: Bench) -> Outcome:
    """Compares both at several sizes and in both precisions."""
    if not bench.on_gpu:
        section = Section("Deformable sampling", ("", ""), [("not measured", "the kernel is for a GPU")])
        return Outcome((section,))
    rows, numbers = [], []
    for batch, side in ((2, 512), (16, 512), (2, 1024)):
        for dtype, limit in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
            inputs = Inputs.random(batch=batch, side=side, dtype=dtype, device=bench.device)
            kernel, reference = inputs.by_kernel(), inputs.by_grid_sample()
            apart = max(difference(own, other) for own, other in zip(kernel, reference, strict=True))
            del kernel, reference
            ways = {"kernel": inputs.by_kernel, "grid_sample": inputs.by_grid_sample}
            timed = time_in_turn(ways, ROUNDS, title=f"sampling, {batch} of {side}x{side}")
            seconds = {name: timed.median(name) for name in ways}
            named = f"{batch} images of {side}x{side}", str(dtype).removeprefix("torch.")
            cells = *(f"{1000 * value:.2f}" for value in seconds.values()), f"{timed.ratio(*ways):.2f}"
            rows.append((*named, *cells, f"{apart:.1e}", "yes" if apart <= limit else "**NO**"))
            numbers.append({"batch": batch, "side": side, "dtype": named[1], **seconds, "difference": apart})
            bench.free()
    columns = ("a layer", "values", "kernel, ms", "grid_sample, ms", "ratio", "largest difference", "right")
    note = f"Forward and backward; medians of {ROUNDS}. Gradients of values are added up in another order each time."
    return Outcome((Section("Deformable sampling", columns, rows, note),), numbers)
