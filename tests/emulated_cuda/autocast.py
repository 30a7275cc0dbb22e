"""What autocast does to the functions that the models call, for tensors that torch does not cast by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

# https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior
_LOW = {
    *("__matmul__", "__rmatmul__", "addbmm", "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d"),
    *("conv_transpose2d", "einsum", "linear", "matmul", "mm", "mv", "prelu", "scaled_dot_product_attention"),
}
_FULL = {
    *("__pow__", "__rpow__", "__rtruediv__", "binary_cross_entropy_with_logits", "cross_entropy", "cumsum", "exp"),
    *("group_norm", "l1_loss", "layer_norm", "log", "log_softmax", "logsumexp", "mse_loss", "nll_loss", "norm"),
    *("normalize", "pow", "prod", "reciprocal", "rsqrt", "softmax", "softplus", "sum"),
}
_WIDEST = {"addcdiv", "addcmul", "bilinear", "cross", "dot", "grid_sample", "scatter_add", "tensordot"}


class WeightCasts(dict[int, tuple[Tensor, Tensor]]):
    """The cast of each weight, which is made once while autocast lasts; with the weight, so that its id stays its."""


def cast_as_autocast(
    name: str, args: Any, kwargs: dict[str, Any], kind: type[Tensor], casts: WeightCasts
) -> tuple[Any, dict[str, Any]]:
    """The arguments of a function as autocast hands them on.

    Args:
        name: the function's.
        args: its arguments.
        kwargs: its keywords.
        kind: the type of the tensors that are cast.
        casts: those of weights so far.
    """
    low = torch.get_autocast_dtype("cuda")
    floats = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, kind) and leaf.is_floating_point()]
    if name in _LOW:
        dtype = low
    elif name in _FULL or (name in _WIDEST and any(tensor.dtype == torch.float32 for tensor in floats)):
        dtype = torch.float32
    else:
        return args, kwargs

    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, kind) or not leaf.is_floating_point() or leaf.dtype in (dtype, torch.float64):
            return leaf
        if not (leaf.is_leaf and leaf.requires_grad and dtype == low):
            return leaf.to(dtype)
        if id(leaf) not in casts:
            casts[id(leaf)] = leaf, leaf.to(dtype)
        return casts[id(leaf)][1]

    return tree_map(cast, (args, kwargs))


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **options: Any
) -> Tensor:
    """Attention in one operation, as a GPU has it; a mask is made numbers, which are repeated for each head."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.where(attn_mask, 0.0, -torch.inf).to(query.dtype)
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    options = {name: options[name] for name in ("is_causal", "scale") if name in options}
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, attn_mask=attn_mask, **options
    )[0]
