"""Checks of options and images, made where the user passes them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

import torch
from torch import Tensor, nn


def check_choice(name: str, value: object, choices: Any) -> None:
    """Checks an option against its ``Literal``.

    Raises:
        ValueError: naming the option, its choices and what was given.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, got {value!r}")


def check_positive(**options: int) -> None:
    """Checks that counts are 1 or more.

    Raises:
        ValueError: naming the first option that is not, and what was given.
    """
    for name, value in options.items():
        if not hasattr(value, "__index__") or value < 1:
            raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}")


def check_weights(**options: float) -> None:
    """Checks that weights are finite and not negative.

    Raises:
        ValueError: naming the first option that is not, and what was given.
    """
    for name, value in options.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite weight of 0 or more, got {value}")


def check_shares(**options: float) -> None:
    """Checks that shares lie in [0, 1].

    Raises:
        ValueError: naming the first option that does not, and what was given.
    """
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be a share in [0, 1], got {value}")


def check_depth(encoder_depth: int) -> None:
    """Checks the number of stages of an encoder.

    Raises:
        ValueError: if it is not 3, 4 or 5.
    """
    if encoder_depth not in (3, 4, 5):
        raise ValueError(f"encoder_depth must be 3, 4 or 5, got {encoder_depth}")


def check_width(decoder_channels: int, *, num_heads: int) -> None:
    """Checks the width D of a decoder.

    Raises:
        ValueError: if groups or heads can not share it evenly.
    """
    # GroupNorm has 32 groups, and in training a group needs two values where a map is a single cell.
    if decoder_channels % 64 or decoder_channels % num_heads:
        raise ValueError(
            f"decoder_channels must be a multiple of 64 and of num_heads={num_heads}, got {decoder_channels}"
        )


def check_colours(*, image_mean: Sequence[float] | None, image_std: Sequence[float] | None) -> None:
    """Checks what images are normalised with, where it is given.

    Raises:
        ValueError: naming the option and what was given.
    """
    for name, colour in {"image_mean": image_mean, "image_std": image_std}.items():
        if colour is None:
            continue
        fits = len(colour) == 3 and all(math.isfinite(value) for value in colour)
        if not fits or (name == "image_std" and min(colour) <= 0):
            raise ValueError(f"{name} must be three finite numbers, a standard deviation above 0, got {list(colour)}")


def check_adapters(model: nn.Module) -> None:
    """Checks that peft trains and saves each part of a model once.

    Raises:
        RuntimeError: if ``modules_to_save`` took a part, and a part of that, which would be saved untrained.
    """
    if "peft" not in sys.modules:
        return
    for name, module in model.named_modules():
        own = {"original_module", "modules_to_save"}
        if own < module._modules.keys():
            *_, end = name.split(".")
            inner = ", ".join(f"'{part}'" for part in module._modules if part not in own)
            raise RuntimeError(
                f"peft's modules_to_save=['{end}'] took {inner} in '{name}' too, as their names end alike, and would "
                f"save it untrained; name the parts of '{name}' there instead"
            )


def refuse_torchscript() -> NoReturn:
    """Says what to use in the place of TorchScript, whose traces hold for one size of image, or fail.

    Raises:
        RuntimeError: always, as smp's models do that are not scriptable.
    """
    raise RuntimeError(
        "this model can be neither scripted nor traced by torch.jit, nor exported by torch.onnx.export(dynamo=False): "
        "take torch.export.export(model.eval(), (images,)), or torch.onnx.export(..., dynamo=True)"
    )


def check_images(images: Tensor, *, channels: int, dtype: torch.dtype) -> None:
    """Checks images before a layer of the encoder refuses them with a message of its own.

    Args:
        images: what should be (B, C, H, W).
        channels: C.
        dtype: the model's.

    Raises:
        ValueError: if they are not floating-point numbers of that shape and dtype, or there are none.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"images must be floating-point (B, C, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    if 0 in images.shape:
        raise ValueError(f"there is nothing to segment in images of shape {tuple(images.shape)}: leave them out")
    if images.shape[1] != channels:
        raise ValueError(f"the encoder was built for {channels} channels, got {images.shape[1]}")
    # Autocast casts what an operation is given, but nothing of double precision.
    cast = torch.is_autocast_enabled(images.device.type) and torch.float64 not in (images.dtype, dtype)
    if images.dtype != dtype and not cast:
        raise ValueError(f"the images are {images.dtype}, but the model is {dtype}: convert one of the two")
