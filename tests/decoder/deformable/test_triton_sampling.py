from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from mtaclip_plugin.decoder.deformable import attention, triton_sampling, use_triton
from mtaclip_plugin.decoder.deformable.grid_sampling import grid_sampling

ROOT = Path(__file__).parents[3]
triton_only = pytest.mark.skipif(triton_sampling.find_spec("triton") is None, reason="there is no Triton here")


class OnGPU(torch.Tensor):
    device = torch.device("cuda:0")  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MTACLIP_TRITON", raising=False)
    monkeypatch.setattr(triton_sampling, "_choice", None)
    cached = triton_sampling._makes_kernels
    cached.cache_clear()
    yield
    cached.cache_clear()


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
@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize(
    ("heads", "levels", "points", "channels", "values"),
    [(8, 3, 4, 32, "bf16"), (8, 3, 4, 32, "fp16"), (1, 1, 1, 1, "fp32")],
    ids=["in bfloat16", "in float16", "the try"],
)
def test_the_kernels_compile_for_a_gpu_that_is_not_here(
    heads: int, levels: int, points: int, channels: int, values: str, capability: int
) -> None:
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mtaclip_plugin.decoder.deformable import triton_kernels

    types = dict.fromkeys(("value", "output", "grad_output"), values)
    rows = triton_kernels.NUMBERS // channels
    constants = {"HEADS": heads, "LEVELS": levels, "POINTS": points, "D": channels, "ROWS": rows}
    numbers = {"level_shapes": ("fp32",) * (2 * levels), "cells": "i32", "queries": "i32"}
    for kernel in (triton_kernels.sample, triton_kernels.sample_backward):
        rest = numbers | dict.fromkeys(constants, "constexpr")
        signature = {name: rest.get(name, f"*{types.get(name, 'fp32')}") for name in kernel.arg_names}
        target = GPUTarget("cuda", capability, 32)
        assert compile_kernel(ASTSource(kernel, signature, constants), target=target).asm["ptx"]


@triton_only
def test_a_gpu_takes_the_kernel_where_it_is_chosen_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    value, offsets = torch.zeros(1, 4, 2, 32).as_subclass(OnGPU), torch.zeros(1, 4, 2, 1, 4, 2)
    use_triton()
    assert triton_sampling.takes_triton(value, offsets)
    assert triton_sampling.takes_triton(value.bfloat16(), offsets)
    assert not triton_sampling.takes_triton(value[..., :24], offsets)
    assert not triton_sampling.takes_triton(value.double(), offsets.double())
    assert not triton_sampling.takes_triton(value.as_subclass(torch.Tensor), offsets)
    for question in (
        "torch.compiler.is_exporting",
        "torch.jit.is_tracing",
        "torch.are_deterministic_algorithms_enabled",
    ):
        with monkeypatch.context() as patched:
            patched.setattr(question, lambda: True)
            assert not triton_sampling.takes_triton(value, offsets)
    use_triton(False)
    assert not triton_sampling.takes_triton(value, offsets)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """What stands for the kernel; the device of the try is the CPU."""
    monkeypatch.setattr(triton_sampling, "find_spec", lambda name: name)
    zeros = torch.zeros
    monkeypatch.setattr(triton_sampling.torch, "zeros", lambda *size, device: zeros(*size))
    kernel = Mock()
    monkeypatch.setattr(triton_sampling, "_sample", kernel)
    return kernel


def test_without_a_choice_the_kernel_is_taken_where_it_can_be_made(tried: Mock) -> None:
    device = torch.device("cuda", 0)
    assert triton_sampling.samples_by_kernel(device, 32) and triton_sampling.samples_by_kernel(device, 8)
    tried.assert_called_once()
    assert not triton_sampling.samples_by_kernel(torch.device("cpu"), 32)
    assert not triton_sampling.samples_by_kernel(device, 24)


def test_where_it_can_not_be_made_that_is_said_once(tried: Mock) -> None:
    tried.side_effect = RuntimeError("Failed to find C compiler")
    device = torch.device("cuda", 0)
    with pytest.warns(
        UserWarning, match=r"goes on through grid_sample.*: Failed to find C compiler\. MTACLIP_TRITON=0"
    ):
        assert not triton_sampling.samples_by_kernel(device, 32)
    assert not triton_sampling.samples_by_kernel(device, 32)
    tried.assert_called_once()


def test_where_there_is_none_or_no_nvidia_it_is_not_tried(tried: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("torch.version.hip", "6.4")
        assert not triton_sampling.samples_by_kernel(torch.device("cuda", 0), 32)
    monkeypatch.setattr(triton_sampling, "find_spec", lambda name: None)
    assert not triton_sampling.samples_by_kernel(torch.device("cuda", 1), 32)
    tried.assert_not_called()


def test_the_try_is_one_sample(tried: Mock) -> None:
    assert triton_sampling._makes_kernels(0)
    *tensors, (height, width) = tried.call_args.args
    assert grid_sampling(*tensors, [(height, width)]).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("answer", [True, False])
def test_compilers_of_graphs_take_the_answer_as_it_is(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr(triton_sampling, "_makes_kernels", lambda index: answer)

    def sampled(tensor: Tensor) -> Tensor:
        return tensor + 1 if triton_sampling._is_able(tensor.device.index) else tensor - 1

    compiled = torch.compile(sampled, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)).item() == (1 if answer else -1)
    torch.compiler.reset()


@pytest.mark.parametrize(("value", "choice"), [("0", False), ("1", True), ("", None), (None, None)])
def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch, value: str | None, choice: bool | None) -> None:
    monkeypatch.setattr(triton_sampling, "find_spec", lambda name: name)
    if value is not None:
        monkeypatch.setenv("MTACLIP_TRITON", value)
    use_triton(choice is False)  # the other one
    use_triton(None)
    assert triton_sampling._choice is choice


def test_an_environment_that_says_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTACLIP_TRITON", "off")
    with pytest.raises(ValueError, match="MTACLIP_TRITON is 'off'; set it to 1 or 0"):
        triton_sampling._of_environment()


def test_without_triton_it_can_not_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_sampling, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="needs Triton"):
        use_triton()
    use_triton(False)


def test_other_ways_give_the_dtype_of_the_values() -> None:
    value, offsets = torch.randn(1, 4, 2, 8).bfloat16(), torch.randn(1, 4, 2, 1, 4, 2)
    output = attention.deformable_sampling(value, offsets, torch.rand(1, 4, 2, 1, 4), torch.rand(4, 2), [(2, 2)])
    assert output.dtype == torch.bfloat16
