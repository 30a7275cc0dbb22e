from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from mtaclip_plugin.decoder.deformable import attention, triton_sampling, use_triton
from mtaclip_plugin.decoder.gpu import gpu_properties

ROOT = Path(__file__).parents[3]
triton_only = pytest.mark.skipif(triton_sampling.find_spec("triton") is None, reason="there is no Triton here")


class OnGPU(torch.Tensor):
    device = torch.device("cuda:0")  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_sampling, "_choice", None)


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
def test_a_gpu_takes_the_kernel_where_it_is_chosen_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    value, offsets = torch.zeros(1, 4, 2, 32).as_subclass(OnGPU), torch.zeros(1, 4, 2, 1, 4, 2)
    use_triton()
    assert triton_sampling.takes_triton(value, offsets)
    assert triton_sampling.takes_triton(value.bfloat16(), offsets)
    assert not triton_sampling.takes_triton(value[..., :24], offsets)
    assert not triton_sampling.takes_triton(value.double(), offsets.double())
    assert not triton_sampling.takes_triton(value.as_subclass(torch.Tensor), offsets)
    for question in ("torch.compiler.is_exporting", "torch.are_deterministic_algorithms_enabled"):
        with monkeypatch.context() as patched:
            patched.setattr(question, lambda: True)
            assert not triton_sampling.takes_triton(value, offsets)
    use_triton(False)
    assert not triton_sampling.takes_triton(value, offsets)


@triton_only
@pytest.mark.parametrize(
    ("capability", "hip", "compilers", "expected"),
    [
        ((9, 0), None, {"gcc"}, True),
        ((7, 5), None, {"clang"}, True),
        ((7, 0), None, {"gcc"}, False),
        ((9, 0), "6.4", {"gcc"}, False),
        ((9, 0), None, set(), False),
        (None, None, {"gcc"}, False),
    ],
    ids=["Hopper", "Turing", "Volta", "AMD", "no C compiler", "no driver"],
)
def test_without_a_choice_the_kernel_is_taken_where_it_can_be_made(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int] | None,
    hip: str | None,
    compilers: set[str],
    expected: bool,
) -> None:
    known = None if capability is None else SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(triton_sampling, "gpu_properties", lambda: known)
    monkeypatch.setattr("torch.version.hip", hip)
    monkeypatch.setattr(triton_sampling, "which", lambda name: name if name in compilers else None)
    monkeypatch.setattr(triton_sampling, "_can_make_kernels", triton_sampling._can_make_kernels.__wrapped__)
    monkeypatch.delenv("CC", raising=False)
    assert triton_sampling.uses_triton(torch.device("cuda", 0)) is expected
    assert not triton_sampling.uses_triton(torch.device("cpu"))


@pytest.mark.parametrize("answer", [True, False])
def test_compilers_of_graphs_take_the_answer_as_it_is(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr(
        triton_sampling, "gpu_properties", lambda: SimpleNamespace(major=9, minor=0) if answer else None
    )
    monkeypatch.setattr(triton_sampling, "find_spec", lambda name: name)
    monkeypatch.setattr(triton_sampling, "which", lambda name: name)
    triton_sampling._can_make_kernels.cache_clear()

    def sampled(tensor: torch.Tensor) -> torch.Tensor:
        return tensor + 1 if triton_sampling._is_able() else tensor - 1

    try:
        compiled = torch.compile(sampled, backend="eager", fullgraph=True)
        assert compiled(torch.zeros(1)).item() == (1 if answer else -1)
    finally:
        triton_sampling._can_make_kernels.cache_clear()
        torch.compiler.reset()


def test_where_no_driver_knows_a_device_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (AssertionError("Torch not compiled with CUDA enabled"), RuntimeError("Found no NVIDIA driver")):
        monkeypatch.setattr("torch.cuda.get_device_properties", Mock(side_effect=error))
        assert gpu_properties() is None
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: f"properties of {device}")
    assert gpu_properties(torch.device("cuda:1")) == "properties of cuda:1"


def test_without_triton_it_can_not_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_sampling, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="needs Triton"):
        use_triton()
    use_triton(False)


def test_other_ways_give_the_dtype_of_the_values() -> None:
    value, offsets = torch.randn(1, 4, 2, 8).bfloat16(), torch.randn(1, 4, 2, 1, 4, 2)
    output = attention.deformable_sampling(value, offsets, torch.rand(1, 4, 2, 1, 4), torch.rand(4, 2), [(2, 2)])
    assert output.dtype == torch.bfloat16
