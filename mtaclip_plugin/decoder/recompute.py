"""What can be made again in the backward pass instead of being kept for it, and whether it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Recompute = Literal["auto", True, False]

_enabled = ContextVar("recomputing", default=True)


@contextmanager
def recomputing(enabled: bool) -> Iterator[None]:
    """Within it, ``recomputed`` does what it is named for or not; a decoder enters it for its own forward pass.

    Args:
        enabled: whether it does.
    """
    before = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(before)


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """``function(*inputs)``, of which no tensor in between is kept for the backward pass.

    That pass computes them again, up to the last one that it needs: so a final linear layer costs nothing. A compiler
    weighs time and memory of its own accord, so compiled and exported graphs have the function as it is.

    Args:
        function: without randomness.
        *inputs: its arguments, which are kept.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling() and _enabled.get():
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)
