from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtaclip_plugin.decoder.deformable import attention, triton_sampling, use_triton

ROOT = Path(__file__).parents[3]
triton_only = pytest.mark.skipif(triton_sampling.find_spec("triton") is None, reason="there is no Triton here")


class OnGPU(torch.Tensor):
    is_cuda = True  # type: ignore[assignment]


@pytest.fixture
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_sampling, "_is_used", False)


@triton_only
def test_the_kernels_in_the_interpreter() -> None:
    """In a process of their own: Triton reads the variable when it is imported."""
    file = Path(__file__).with_name("interpreted_triton.py")
    options = ["--noconftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(file)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@triton_only
def test_the_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mtaclip_plugin.decoder.deformable import triton_kernels

    types = dict.fromkeys(("value", "output", "grad_output"), "bf16")
    constants = {"HEADS": 8, "LEVELS": 3, "POINTS": 4, "D": 32, "ROWS": 32}
    numbers = {"level_shapes": ("fp32",) * 6, "cells": "i32", "queries": "i32"}
    for kernel in (triton_kernels.sample, triton_kernels.sample_backward):
        rest = numbers | dict.fromkeys(constants, "constexpr")
        signature = {name: rest.get(name, f"*{types.get(name, 'fp32')}") for name in kernel.arg_names}
        assert compile_kernel(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32)).asm["ptx"]


@triton_only
@pytest.mark.usefixtures("_as_it_was")
def test_a_gpu_takes_the_kernel_where_it_is_chosen_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    value, offsets = torch.zeros(1, 4, 2, 32).as_subclass(OnGPU), torch.zeros(1, 4, 2, 1, 4, 2)
    assert not triton_sampling.takes_triton(value, offsets)
    use_triton()
    assert triton_sampling.takes_triton(value, offsets)
    assert triton_sampling.takes_triton(value.bfloat16(), offsets)
    assert not triton_sampling.takes_triton(value[..., :24], offsets)
    assert not triton_sampling.takes_triton(value.double(), offsets.double())
    assert not triton_sampling.takes_triton(value.as_subclass(torch.Tensor), offsets)
    monkeypatch.setattr("torch.compiler.is_exporting", lambda: True)
    assert not triton_sampling.takes_triton(value, offsets)
    monkeypatch.undo()
    use_triton(False)
    assert not triton_sampling.takes_triton(value, offsets)


@pytest.mark.usefixtures("_as_it_was")
def test_without_triton_it_can_not_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_sampling, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="needs Triton"):
        use_triton()
    use_triton(False)


def test_other_ways_give_the_dtype_of_the_values() -> None:
    value, offsets = torch.randn(1, 4, 2, 8).bfloat16(), torch.randn(1, 4, 2, 1, 4, 2)
    output = attention.deformable_sampling(value, offsets, torch.rand(1, 4, 2, 1, 4), torch.rand(4, 2), [(2, 2)])
    assert output.dtype == torch.bfloat16
