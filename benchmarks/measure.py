"""Counting and timing: operations, bytes, and seconds in pairs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from tqdm import tqdm

MEBIBYTE = 2**20


def count_flops(function: Callable[[], object]) -> int:
    """Floating-point operations of a call: a multiplication and an addition are two.

    What a fused kernel of attention makes again in its backward pass does not count.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU)
    with counter:
        function()
    return counter.get_total_flops()


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *rest: Any, **options: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    gradient: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *rest: Any, **options: Any
) -> int:
    return 2 * _attention(query, key, value)


_ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Kernels that torch's counter knows nothing of."""


class _ByteCounter(TorchDispatchMode):
    """Sums the sizes of what each operation reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, outputs)) if isinstance(leaf, Tensor))
        return outputs


def count_bytes(function: Callable[[], object]) -> int:
    """Bytes that the operations of a call read and write, each tensor once an operation, as if there were no caches."""
    counter = _ByteCounter()
    with counter:
        function()
    return counter.total


class _Tracker(MemTracker):
    """``MemTracker`` for modules with frozen parameters too, which it can not hook."""

    def _track_module_params_and_buffers(self, module: nn.Module, install_grad_hooks: bool = True) -> tuple[int, int]:
        trained = all(parameter.requires_grad for parameter in module.parameters())
        return super()._track_module_params_and_buffers(module, install_grad_hooks and trained)


def peak_bytes(function: Callable[[], object], *modules: nn.Module) -> int:
    """Most bytes of tensors, the modules' parameters and buffers included, that live at any moment of a call.

    Every storage that an operation of torch makes is counted from its making to its release: the same number each time
    and on each machine. What was made before the call, other than the modules', is not counted, and what a kernel
    holds inside of itself is not seen.
    """
    tracker = _Tracker()
    tracker.track_external(*modules)
    with tracker:
        function()
    return sum(counts["Total"] for counts in tracker.get_tracker_snapshot("peak").values())


@dataclass(frozen=True)
class PairedSeconds:
    """Seconds of several functions, called in turn.

    Attributes:
        rounds: for each round the seconds of each function.
    """

    rounds: tuple[Mapping[str, float], ...]

    def median(self, name: str) -> float:
        """Median seconds of one function."""
        return statistics.median(seconds[name] for seconds in self.rounds)

    def ratio(self, name: str, peer: str) -> float:
        """Median over the rounds of the quotient of two functions' seconds: what disturbs a round disturbs both."""
        return statistics.median(seconds[name] / seconds[peer] for seconds in self.rounds)


def time_in_turn(functions: Mapping[str, Callable[[], object]], rounds: int, *, title: str) -> PairedSeconds:
    """Calls all functions in turn, round after round, after one round that does not count.

    Args:
        functions: by name.
        rounds: how many.
        title: of the progress bar.
    """
    measured = []
    for number in tqdm(range(rounds + 1), desc=title):
        seconds = {}
        for name, function in functions.items():
            _synchronize()
            start = time.perf_counter()
            function()
            _synchronize()
            seconds[name] = time.perf_counter() - start
        if number > 0:
            measured.append(seconds)
    return PairedSeconds(tuple(measured))


def matrix_rate(dtype: torch.dtype, *, size: int = 2048) -> float:
    """FLOP a second that matrix products reach here, the best of ten."""
    matrix = torch.randn(size, size).to(dtype)
    return 2 * size**3 / min(_seconds(lambda: matrix @ matrix) for _ in range(10))


def copy_rate(*, megabytes: int = 256) -> float:
    """Bytes a second that a copy reads and writes here, the best of ten."""
    source = torch.randn(megabytes * 2**18)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(_seconds(lambda: target.copy_(source)) for _ in range(10))


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
