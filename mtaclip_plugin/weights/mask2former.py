"""Weights of transformers' Mask2Former for the parts that MTA-CLIP shares with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtaclip_plugin.decoder import DeformablePixelDecoder
from mtaclip_plugin.model import MTACLIP
from mtaclip_plugin.weights.source import read_source
from mtaclip_plugin.weights.swin import convert_swin, swin_difference

_PIXEL, _QUERY = "model.pixel_level_module.decoder", "model.transformer_module"
_NAMES = {
    "pixels.input_projections": f"{_PIXEL}.input_projections",
    "pixels.level_embedding.weight": f"{_PIXEL}.level_embed",
    "pixels.layers.*.attention.sampling_offsets": f"{_PIXEL}.encoder.layers.*.self_attn.sampling_offsets",
    "pixels.layers.*.attention.attention_weights": f"{_PIXEL}.encoder.layers.*.self_attn.attention_weights",
    "pixels.layers.*.attention.value_projection": f"{_PIXEL}.encoder.layers.*.self_attn.value_proj",
    "pixels.layers.*.attention.output_projection": f"{_PIXEL}.encoder.layers.*.self_attn.output_proj",
    "pixels.layers.*.attention_norm": f"{_PIXEL}.encoder.layers.*.self_attn_layer_norm",
    "pixels.layers.*.feedforward.0": f"{_PIXEL}.encoder.layers.*.fc1",
    "pixels.layers.*.feedforward.2": f"{_PIXEL}.encoder.layers.*.fc2",
    "pixels.layers.*.feedforward_norm": f"{_PIXEL}.encoder.layers.*.final_layer_norm",
    "pixels.lateral": f"{_PIXEL}.adapter_1",
    "pixels.output": f"{_PIXEL}.layer_1",
    "pixels.mask_projection": f"{_PIXEL}.mask_projection",
    "tokens.mask_queries": f"{_QUERY}.queries_features",
    "tokens.mask_positions": f"{_QUERY}.queries_embedder",
    "tokens.level_embedding": f"{_QUERY}.level_embed",
    "tokens.layers.*.cross_attention.query": f"{_QUERY}.decoder.layers.*.cross_attn.q_proj",
    "tokens.layers.*.cross_attention.key": f"{_QUERY}.decoder.layers.*.cross_attn.k_proj",
    "tokens.layers.*.cross_attention.value": f"{_QUERY}.decoder.layers.*.cross_attn.v_proj",
    "tokens.layers.*.cross_attention.output": f"{_QUERY}.decoder.layers.*.cross_attn.out_proj",
    "tokens.layers.*.cross_attention_norm": f"{_QUERY}.decoder.layers.*.cross_attn_layer_norm",
    "tokens.layers.*.self_attention.query": f"{_QUERY}.decoder.layers.*.self_attn.q_proj",
    "tokens.layers.*.self_attention.key": f"{_QUERY}.decoder.layers.*.self_attn.k_proj",
    "tokens.layers.*.self_attention.value": f"{_QUERY}.decoder.layers.*.self_attn.v_proj",
    "tokens.layers.*.self_attention.output": f"{_QUERY}.decoder.layers.*.self_attn.out_proj",
    "tokens.layers.*.self_attention_norm": f"{_QUERY}.decoder.layers.*.self_attn_layer_norm",
    "tokens.layers.*.feedforward.0": f"{_QUERY}.decoder.layers.*.fc1",
    "tokens.layers.*.feedforward.2": f"{_QUERY}.decoder.layers.*.fc2",
    "tokens.layers.*.feedforward_norm": f"{_QUERY}.decoder.layers.*.final_layer_norm",
    "tokens.head.norm": f"{_QUERY}.decoder.layernorm",
    "tokens.head.mask_head.layers.0": f"{_QUERY}.decoder.mask_predictor.mask_embedder.0.0",
    "tokens.head.mask_head.layers.2": f"{_QUERY}.decoder.mask_predictor.mask_embedder.1.0",
    "tokens.head.mask_head.layers.4": f"{_QUERY}.decoder.mask_predictor.mask_embedder.2.0",
    "tokens.head.class_head": "class_predictor",
}
"""Our modules under ``decoder`` and transformers' of the same meaning; ``*`` is the number of a layer."""

_OPTIONS = {
    "feature_size": "decoder_channels",
    "mask_feature_size": "decoder_channels",
    "hidden_dim": "decoder_channels",
    "encoder_layers": "pixel_decoder_layers",
    "encoder_feedforward_dim": "pixel_decoder_ffn",
    "decoder_layers": "decoder_layers",
    "dim_feedforward": "decoder_ffn",
    "num_attention_heads": "num_heads",
    "num_queries": "num_queries",
}
"""Entries of transformers' configuration, and the options of ours that must have the same value."""

_FIXED = {
    "model_type": "mask2former",
    "pre_norm": False,
    "activation_function": "relu",
    "enforce_input_projection": False,
    "common_stride": 4,
}
"""What of transformers' configuration is not an option of ours."""


@dataclass(frozen=True)
class SkippedWeight:
    """A parameter that kept its value, or ``"encoder"`` for all of the encoder's, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """The names of the parameters that have a new value, and those that do not, the encoder as one.

    Example:
        >>> from mtaclip_plugin import ConversionReport
        >>> from mtaclip_plugin.weights.mask2former import SkippedWeight
        >>> report = ConversionReport(("decoder.mask_head.weight",), (SkippedWeight("encoder", "another one"),))
        >>> [weight.name for weight in report.skipped]
        ['encoder']
    """

    copied: tuple[str, ...]
    skipped: tuple[SkippedWeight, ...]


def load_mask2former(model: MTACLIP, source: nn.Module | str | Path) -> ConversionReport:
    """Copies the weights of transformers' ``Mask2FormerForUniversalSegmentation`` in place.

    Pixel decoder, mask path of the decoder, final norm and mask head are copied; the class head where the number of
    classes is the same and no class has another name. Projections of encoder maps with another number of channels
    keep their values.

    The encoder comes along where both are the same Swin, such as ``"tu-swin_tiny_patch4_window7_224"`` of
    ``facebook/mask2former-swin-tiny-ade-semantic``: the same window, depths, widths and heads. With it come the norms
    of its maps, which then equal transformers' for images of any size, unless ``always_partition`` was given (as
    ``swap_decoder`` does): timm then places windows in another way. Another encoder keeps its values.

    Args:
        model: with the deformable pixel decoder and Mask2Former's sizes.
        source: the module itself, a folder with its ``config.json`` and safetensors, or its name on the hub.

    Returns:
        What was copied and what was not.

    Raises:
        ValueError: if sizes of the two differ, or ``source`` is no such model; the model is then unchanged.
        FileNotFoundError: if the folder lacks the configuration or the weights.
        ConnectionError: if the hub's files could not be fetched.

    Example:
        >>> import mtaclip_plugin as mta
        >>> from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
        >>> theirs = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(num_labels=3))
        >>> model = mta.MTACLIP("resnet18", encoder_weights=None, classes=3, text_encoder=None)
        >>> report = mta.load_mask2former(model, theirs)
        >>> len(report.copied) > 200, report.skipped[0].name
        (True, 'encoder')
    """
    config, state = read_source(source)
    _check_sizes(model, config)
    state = _split_projections(state)
    parameters = dict(model.decoder.named_parameters())
    renamed = {name: _their_name(name) for name in parameters}
    if missing := [name for name in renamed.values() if name and name not in state]:
        raise ValueError(f"the source has no weight '{missing[0]}': it is no Mask2FormerForUniversalSegmentation")
    other_classes = _class_difference(model, config, state["class_predictor.bias"].numel() - 1)

    swin = convert_swin(state)
    other_encoder = swin_difference(model, config.get("backbone_config") or {}, swin)

    copied = swin if other_encoder is None else {}
    skipped = [] if other_encoder is None else [SkippedWeight("encoder", other_encoder)]
    for name, their_name in renamed.items():
        if f"decoder.{name}" in copied:
            continue
        if their_name is None:
            reason = (other_encoder if name.startswith("pyramid.norms.") else None) or "Mask2Former has no such part"
        elif their_name.startswith("class_predictor") and other_classes:
            reason = other_classes
        elif state[their_name].shape != parameters[name].shape:
            reason = f"another encoder: {tuple(state[their_name].shape)} there, {tuple(parameters[name].shape)} here"
        else:
            copied[f"decoder.{name}"] = state[their_name]
            continue
        skipped.append(SkippedWeight(f"decoder.{name}", reason))
    with torch.no_grad():
        for name, weight in copied.items():
            model.get_parameter(name).copy_(weight)
    return ConversionReport(tuple(copied), tuple(skipped))


def _their_name(name: str) -> str | None:
    for ours, theirs in _NAMES.items():
        if match := re.match(re.escape(ours).replace(r"\*", r"(\d+)") + r"(?=\.|$)", name):
            return match.expand(theirs.replace("*", r"\1")) + name[match.end() :]
    return None


def _split_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with the fused input projections of ``nn.MultiheadAttention`` also as three like any others."""
    split = dict(state)
    for name, fused in state.items():
        prefix, found, kind = name.partition("in_proj_")
        if found and fused.ndim > 0 and len(fused) % 3 == 0:
            split |= {f"{prefix}{part}_proj.{kind}": rows for part, rows in zip("qkv", fused.chunk(3), strict=True)}
    return split


def _check_sizes(model: MTACLIP, config: Mapping[str, Any]) -> None:
    if not isinstance(model.decoder.pixel_decoder, DeformablePixelDecoder):
        raise ValueError("Mask2Former's pixel decoder is deformable: build the model with pixel_decoder='deformable'")
    for key, value in _FIXED.items():
        if config.get(key) != value:
            raise ValueError(f"only a Mask2Former of transformers with {key}={value!r} fits, got {config.get(key)!r}")
    labels, backbone = (config.get(key) or {} for key in ("id2label", "backbone_config"))
    if not (isinstance(labels, dict) and isinstance(backbone, dict)):
        raise ValueError("id2label and backbone_config of the Mask2Former's configuration must be tables")
    if not all(str(index).isdecimal() and isinstance(label, str) for index, label in labels.items()):
        raise ValueError(f"id2label of the Mask2Former's configuration must have names by class numbers, got {labels}")
    if absent := _OPTIONS.keys() - config.keys():
        raise ValueError(f"the Mask2Former's configuration lacks {sorted(absent)}")
    for key, option in _OPTIONS.items():
        # Transformers counts the prediction before the first layer as a layer.
        ours, theirs = model.config[option], config[key]
        if key == "decoder_layers" and isinstance(theirs, int):
            theirs -= 1
        if ours != theirs:
            raise ValueError(f"{option}={ours}, but {theirs} in the Mask2Former ({key}): build the model with {theirs}")


def _class_difference(model: MTACLIP, config: Mapping[str, Any], num_classes: int) -> str | None:
    """Why the class heads do not correspond; ``None`` if they do."""
    if num_classes != model.config["classes"]:
        return f"{num_classes} classes there, {model.config['classes']} here"
    labels = {int(index): label for index, label in (config.get("id2label") or {}).items()}
    for index, name in enumerate(model.class_names or ()):
        unnamed = f"LABEL_{index}"  # what transformers calls a class without a name
        label = labels.get(index, unnamed)
        if label != unnamed and not _synonyms(label) & _synonyms(name):
            return f"class {index} is '{label}' there, '{name}' here"
    return None


def _synonyms(label: str) -> set[str]:
    """{"road", "route"} of "road, route", as ADE20K names its classes."""
    return {name.strip().casefold() for name in label.split(",")}
