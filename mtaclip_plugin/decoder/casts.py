"""The weights of many layers, cast in one operation where autocast would cast each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def with_weights_cast(module: nn.Module, *inputs: Any, **options: Any) -> Any:
    """``module(*inputs, **options)``, where on a GPU under autocast all its layers' weights are cast together.

    The results are the same: what is spared is a small operation for each weight, forward and backward, for which a
    GPU waits. Without autocast, on a CPU and for compilers the module is called as it is; so is one whose weights may
    be others by the time that a layer is called, as hooks before it can see to.

    Args:
        module: whose linear layers and convolutions all run under the autocast that is on.
        *inputs: its inputs.
        **options: its keywords.
    """
    if not torch.is_autocast_enabled("cuda") or torch.compiler.is_compiling():
        return module(*inputs, **options)
    dtype = torch.get_autocast_dtype("cuda")
    weights = {
        f"{path}.{name}": weight
        for path, layer in module.named_modules()
        if type(layer) in (nn.Linear, nn.Conv2d)  # others may do with their weights what they like
        for name, weight in layer.named_parameters(recurse=False)
        if weight.is_cuda and weight.dtype == torch.float32 and weight.requires_grad
    }
    if not weights or any(layer._forward_pre_hooks for layer in module.modules()):
        return module(*inputs, **options)
    casts = _CastTogether.apply(dtype, *weights.values())
    return functional_call(module, dict(zip(weights, casts, strict=True)), inputs, options, tie_weights=False)


class _CastTogether(torch.autograd.Function):
    """Tensors of float32 in another type."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Casts all tensors; their gradients are cast back, together too."""
        ctx.set_materialize_grads(False)
        return tuple(_cast(tensors, dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients in float32; of a weight that was not used there is none."""
        given = [gradient for gradient in gradients if gradient is not None]
        casts = iter(_cast(given, torch.float32) if given else ())
        return (None, *(None if gradient is None else next(casts) for gradient in gradients))


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    casts = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(casts, list(tensors))
    return casts
