"""AdamW with parameter groups, and its schedule: a linear warm-up, then a polynomial decay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from segmentation_models_pytorch.base import SegmentationModel
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from trainers.engine.encoder_blocks import block_numbers

_UNDECAYED_MODULES = (nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_UNDECAYED_NAMES = ("contexts", "none_embedding")


def create_optimizer(
    model: SegmentationModel, *, lr: float, encoder_lr_factor: float, weight_decay: float, layer_decay: float = 1.0
) -> AdamW:
    """AdamW over the parameters that are trained, in named groups.

    The groups are "encoder", "encoder, no decay", "decoder" and "decoder, no decay"; where learning rates fall from
    block to block, "encoder block 00" and so on. Nothing with one dimension
    or none (biases, norms, scales such as gamma and the logit scale) is decayed, no embedding, no prompt context,
    and nothing that a timm encoder says not to decay.

    Args:
        model: Has its backbone in ``model.encoder``; everything else counts as decoder.
        lr: Peak learning rate of the decoder.
        encoder_lr_factor: The encoder's peak learning rate as a part of it.
        weight_decay: Decay of the weights that are decayed.
        layer_decay: Factor on the encoder's learning rate from each block to the one before it.

    Raises:
        ValueError: Rates should fall from block to block, but the encoder has none.
    """
    blocks = block_numbers(model.encoder) if layer_decay < 1 else {}
    deepest = max(blocks.values(), default=0)
    undecayed = set(_undecayed_names(model))
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_encoder = name.startswith("encoder.")
        decays = parameter.ndim > 1 and name not in undecayed
        block = blocks.get(name.removeprefix("encoder.")) if in_encoder else None
        part = ("encoder" if in_encoder else "decoder") + ("" if block is None else f" block {block:02}")
        group = part + ("" if decays else ", no decay")
        factor = (encoder_lr_factor if in_encoder else 1) * (1 if block is None else layer_decay ** (deepest - block))
        options = {
            "name": group,
            "params": [],
            "lr": lr * factor,
            "weight_decay": weight_decay if decays else 0.0,
        }
        groups.setdefault(group, options)["params"].append(parameter)
    return AdamW([groups[name] for name in sorted(groups)], fused=True)  # in a quarter of the time, or one launch


def _undecayed_names(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        names = set(_UNDECAYED_NAMES)
        if isinstance(module, _UNDECAYED_MODULES):
            names.add("weight")
        if callable(listed := getattr(module, "no_weight_decay", None)):  # timm's convention
            names.update(listed())
        yield from (f"{prefix}.{name}" if prefix else name for name in names)


def create_scheduler(optimizer: AdamW, *, iterations: int, warmup_iterations: int, power: float) -> LambdaLR:
    """The schedule of T iterations with W of warm-up, stepped after each iteration.

    Iteration i, counted from 0, has the peak learning rate times (i+1)/(W+1) for i < W, and times
    ((T-i)/(T-W))^power from then on.

    Raises:
        ValueError: The warm-up is as long as the run, or longer.
    """
    if not 0 <= warmup_iterations < iterations:
        raise ValueError(
            f"A warm-up of {warmup_iterations} iterations does not fit into a run of {iterations}; lower "
            "--optim.warmup_iterations."
        )

    def factor(iteration: int) -> float:
        if iteration < warmup_iterations:
            return (iteration + 1) / (warmup_iterations + 1)
        return max(0.0, (iterations - iteration) / (iterations - warmup_iterations)) ** power

    return LambdaLR(optimizer, factor)
