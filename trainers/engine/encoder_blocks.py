"""What an encoder's blocks are good for: learning rates that fall towards the image, and less memory in training."""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters
from torch import nn


def block_numbers(encoder: nn.Module) -> dict[str, int]:
    """How many steps of computation lie before each parameter, by its name: 0 next to the image.

    Args:
        encoder: A plain vision transformer of timm or open_clip.

    Raises:
        ValueError: The encoder does not say which blocks follow each other.
    """
    for prefix, module in encoder.named_modules():
        if callable(matcher := getattr(module, "group_matcher", None)):  # timm's convention
            numbers = group_parameters(module, matcher(coarse=False), reverse=True)
            return {f"{prefix}.{name}" if prefix else name: number for name, number in numbers.items()}
    raise ValueError(
        f"{type(encoder).__name__} does not say which blocks follow each other; set --optim.layer_decay to 1, or take "
        "a plain vision transformer, such as tu-vit_base_patch16_224."
    )


def checkpoint_gradients(encoder: nn.Module) -> None:
    """Lets the encoder compute its activations again in the backward pass instead of keeping them.

    Raises:
        ValueError: The encoder can not.
    """
    for module in encoder.modules():
        if callable(switch := getattr(module, "set_grad_checkpointing", None)):  # timm's convention
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
