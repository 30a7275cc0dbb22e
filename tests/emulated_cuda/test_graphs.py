"""What a CUDA graph could hold: the model's own part of a step, in which nothing waits for the device or feeds it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.emulated_cuda.test_variants import VARIANTS
from tests.test_model import build


class OnTheDevice(TorchDispatchMode):
    """Refuses operations of the host's tensors, of single numbers too."""

    def __init__(self, kind: type[Tensor]) -> None:
        super().__init__()
        self.kind = kind

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            assert not isinstance(leaf, Tensor) or isinstance(leaf, self.kind), f"{func} of a tensor of the host"
        return result


@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_forward_and_backward_need_no_host(
    cuda: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, compiling: bool
) -> None:
    options, _ = VARIANTS[name]
    model, images = build(**options), torch.randn(2, 3, 50, 64)
    with cuda.emulated_cuda():
        model.to("cuda")
        images = images.to("cuda")
        monkeypatch.setattr("torch.compiler.is_compiling", lambda: compiling)
        with cuda.metered() as meter, OnTheDevice(cuda.EmulatedTensor):
            with torch.autocast("cuda", torch.bfloat16):
                layers = model(images, return_masks=True).layers
            found = [layer.class_logits for layer in layers] + [layer.mask_logits for layer in layers]
            found += [layer.text_logits for layer in layers if layer.text_logits is not None]
            torch.stack([tensor.float().square().mean() for tensor in found]).sum().backward()
        assert meter.launches and not meter.waits, meter.page()
