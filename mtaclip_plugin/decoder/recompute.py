"""What is cheaper to make again in the backward pass than to keep for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """``function(*inputs)``, of which no tensor in between is kept for the backward pass.

    That pass computes them again, up to the last one that it needs: so a final linear layer costs nothing. A compiler
    weighs time and memory of its own accord, so compiled and exported graphs have the function as it is.

    Args:
        function: without randomness.
        *inputs: its arguments, which are kept.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)
