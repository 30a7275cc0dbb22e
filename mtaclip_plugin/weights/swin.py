"""Weights of the Swin in transformers' Mask2Former for timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtaclip_plugin.encoders.swin import swin_stages
from mtaclip_plugin.model import MTACLIP

_PREFIX = "model.pixel_level_module.encoder."

_RENAMED = {
    r"^swin\.": "",  # of transformers 5 in memory, not in its files
    r"^embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"^embeddings\.norm": "patch_embed.norm",
    r"^encoder\.layers\.(\d+)\.blocks": r"layers_\1.blocks",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"attention\.(?:self|relative_position_bias)\.relative_position": "attn.relative_position",
    r"attention\.(?:self\.query|q_proj)": "attn.q",
    r"attention\.(?:self\.key|k_proj)": "attn.k",
    r"attention\.(?:self\.value|v_proj)": "attn.v",
    r"attention\.(?:output\.dense|o_proj)": "attn.proj",
    r"intermediate\.dense": "mlp.fc1",
    r"output\.dense": "mlp.fc2",
}
"""Parts of the names in files and in transformers 4, or in transformers 5, and timm's; in this order."""

_UNUSED = r"^(?:swin\.)?layernorm\.|\.relative_position_index$"
"""The norm of the whole Swin, which Mask2Former does not use, and what is no weight but computed."""


def convert_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a Mask2Former's Swin and of the norms of its maps, by their names in ours.

    Args:
        state: all weights of the Mask2Former.
    """
    weights = {
        _our_name(name.removeprefix(_PREFIX)): weight
        for name, weight in state.items()
        if name.startswith(_PREFIX) and not re.search(_UNUSED, name.removeprefix(_PREFIX))
    }
    for name in [name for name in weights if ".attn.q." in name]:
        parts = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if all(part in weights for part in parts):
            weights[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([weights.pop(part) for part in parts])
    return weights


def _our_name(name: str) -> str:
    if norm := re.match(r"hidden_states_norms\.stage(\d+)", name):
        return f"decoder.pyramid.norms.{int(norm[1]) - 1}{name[norm.end() :]}"
    for theirs, ours in _RENAMED.items():
        name = re.sub(theirs, ours, name)
    # Theirs merges patches at the end of a stage, timm's at the start of the next one.
    return "encoder.model." + re.sub(
        r"^encoder\.layers\.(\d+)\.downsample", lambda stage: f"layers_{int(stage[1]) + 1}.downsample", name
    )


def swin_difference(model: MTACLIP, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str | None:
    """Why the weights of a Mask2Former's encoder do not fit a model's; ``None`` if they do.

    Args:
        model: ours.
        config: the encoder's part of transformers' configuration.
        weights: what ``convert_swin`` gave.
    """
    kind, encoder_name = config.get("model_type"), model.config["encoder_name"]
    stages = swin_stages(model.encoder)
    if kind != "swin" or not stages:
        return f"another encoder: '{kind}' there, '{encoder_name}' here"
    theirs = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    differences = [
        f"{key} {theirs[key]} there, {value} here"
        for key, value in _layout(stages).items()
        if theirs.get(key, value) != value
    ]
    if differences:
        return f"another Swin: {'; '.join(differences)}"
    norms = model.decoder.pyramid.norms.named_parameters(prefix="decoder.pyramid.norms")
    ours = {**dict(model.encoder.named_parameters(prefix="encoder")), **dict(norms)}
    for name in [*ours, *weights]:
        there, here = (tuple(tensors[name].shape) if name in tensors else "absent" for tensors in (weights, ours))
        if there != here:
            return f"another Swin: {name} is {there} there, {here} here"
    return None


def _layout(stages: Sequence[Any]) -> dict[str, Any]:
    """What transformers' configuration says of a Swin, as timm's stages have it."""
    windows = [list(stage.blocks[0].window_size) for stage in stages]
    sides = {side for window in windows for side in window}
    return {
        "window_size": sides.pop() if len(sides) == 1 else windows,
        "depths": [len(stage.blocks) for stage in stages],
        "embed_dim": stages[0].dim,
        "num_heads": [stage.blocks[0].attn.num_heads for stage in stages],
        "layer_norm_eps": stages[0].blocks[0].norm1.eps,
        "hidden_act": "gelu",
    }
