"""What an encoder's blocks are good for: learning rates that fall towards the image, and less memory in training."""

from __future__ import annotations

import re
from typing import Any

from timm.models import group_parameters
from torch import nn

_RESIDUAL_BLOCK = re.compile(r"(?:^|\.)resblocks\.(\d+)\.")
"""A block of open_clip's transformers, by a parameter's name."""


def block_numbers(encoder: nn.Module) -> dict[str, int]:
    """How many steps of computation lie before each parameter, by its name: 0 next to the image.

    Args:
        encoder: One that holds a timm model, or a vision transformer of open_clip.

    Raises:
        ValueError: The encoder does not say which blocks follow each other.
    """
    for prefix, module in encoder.named_modules():
        if callable(matcher := getattr(module, "group_matcher", None)):  # timm's convention
            numbers = group_parameters(module, matcher(coarse=False), reverse=True)
            return {f"{prefix}.{name}" if prefix else name: number for name, number in numbers.items()}
    names = [name for name, _ in encoder.named_parameters()]
    blocks = {name: int(match[1]) + 1 for name in names if (match := _RESIDUAL_BLOCK.search(name))}
    if not blocks:
        raise ValueError(
            f"{type(encoder).__name__} does not say which blocks follow each other; set --optim.layer_decay to 1, or "
            "take an encoder of timm, such as tu-convnext_tiny."
        )
    after = max(blocks.values()) + 1
    return {name: blocks.get(name, after if "ln_post" in name or name.endswith(".proj") else 0) for name in names}


def checkpoint_gradients(encoder: nn.Module) -> None:
    """Lets the encoder compute its activations again in the backward pass instead of keeping them.

    Raises:
        ValueError: The encoder can not.
    """
    for module in encoder.modules():
        if callable(switch := getattr(module, "set_grad_checkpointing", None)):  # timm's and open_clip's convention
            try:
                switch(True)
            except (AssertionError, NotImplementedError) as error:
                raise ValueError(_refusal(encoder)) from error
            return
    raise ValueError(_refusal(encoder))


def _refusal(encoder: Any) -> str:
    return (
        f"{type(encoder).__name__} can not compute its activations again; set --train.gradient_checkpointing to "
        "false, or take an encoder of timm, such as tu-convnext_tiny."
    )
