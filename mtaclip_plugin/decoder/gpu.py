"""What is known of a GPU."""

from __future__ import annotations

from typing import Any

import torch


def gpu_properties(device: torch.device | None = None) -> Any | None:
    """``torch.cuda.get_device_properties``; ``None`` where no driver knows the device.

    Args:
        device: of CUDA; ``None`` is the current one.
    """
    try:
        return torch.cuda.get_device_properties(device)
    except (AssertionError, RuntimeError, NameError):  # no CUDA, no driver, and no CUDA behind what passes for it
        return None
