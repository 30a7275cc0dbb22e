"""The emulated device, where this torch is made as the emulation takes it to be."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mtaclip_plugin.decoder.deformable import triton_sampling


def check(device: ModuleType) -> None:
    """Tries what the emulation leans on."""
    with device.emulated_cuda(), device.metered() as meter:
        layer = nn.Linear(2, 2).to("cuda")
        checkpoint(layer, torch.ones(1, 2, device="cuda"), use_reentrant=False).sum().backward()
        assert layer.weight.grad.device == torch.device("cuda:0") and meter.launches
        waited = meter.waits.total()
        layer.weight.sum().item()
        assert meter.waits.total() == waited + 1
        with pytest.raises(RuntimeError, match="same device"):
            layer.weight + torch.ones(2, 2)


@pytest.fixture(autouse=True)
def _without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulated device runs torch's operations, and no kernel but those that a test puts in their place."""
    monkeypatch.setattr(triton_sampling, "_choice", False)


@pytest.fixture(scope="session")
def cuda() -> ModuleType:
    """The module of the emulated device."""
    try:
        device = import_module("tests.emulated_cuda.device")
        check(device)
    except Exception as error:  # whatever a private part that has changed ends in
        pytest.skip(f"torch {torch.__version__} has other internals than the emulated device leans on: {error!r:.200}")
    return device
