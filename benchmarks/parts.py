"""The parts of a training step, each by itself: its operations, bytes and seconds, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.measure import count_bytes, count_flops, time_in_turn
from benchmarks.peers import Scene
from mtaclip_plugin import MTACLIP, MaskPrediction, MTACLIPLoss
from mtaclip_plugin.decoder.pixel_decoder import PixelFeatures
from mtaclip_plugin.encoders import encode
from mtaclip_plugin.losses import MaskTargets


@dataclass(frozen=True)
class Part:
    """What a part of the step was seen to cost, forward and backward.

    Attributes:
        name: of the part.
        flops: its floating-point operations.
        moved: bytes that its operations read and write.
        seconds: the median of some calls.
    """

    name: str
    flops: int
    moved: int
    seconds: float


def measure_parts(model: MTACLIP, criterion: MTACLIPLoss, scene: Scene, *, rounds: int) -> list[Part]:
    """Measures encoder, pixel decoder, mask-text decoder, matching and losses.

    Args:
        model: in training mode, with a bank or without text; the scene's images are of a size that it does not pad.
        criterion: the loss.
        scene: images and labels.
        rounds: calls that are timed.
    """
    decoder, text = model.decoder, model._current_text()
    maps = [features.detach().requires_grad_() for features in encode(model.encoder, scene.images)]
    pixels = decoder.pixel_decoder(decoder.pyramid(maps))
    coarse, middle, fine = map(_leaf, pixels.memories)
    pixels = PixelFeatures(_leaf(pixels.mask_features), (coarse, middle, fine))
    layers = tuple(_detached(layer) for layer in model(scene.images, return_masks=True).layers)
    prediction = replace(layers[-1], auxiliary=layers[:-1])
    targets = MaskTargets.from_label_map(scene.target, num_classes=scene.num_classes)
    matches = criterion.matcher(layers, targets)

    def mask_text_decoder() -> list[Tensor]:
        outputs = decoder.mask_text_decoder(pixels, text, auxiliary=True)
        tensors = [(output.class_logits, output.mask_embed, output.text_logits) for output in outputs]
        return [tensor for layer in tensors for tensor in layer if tensor is not None]

    def pixel_decoder() -> list[Tensor]:
        features = decoder.pixel_decoder(decoder.pyramid(maps))
        return [features.mask_features, *features.memories]

    def matching() -> list[Tensor]:
        criterion.matcher(layers, targets)
        return []

    def losses() -> list[Tensor]:
        with patch.object(criterion.matcher, "forward", lambda *_: matches):
            return [criterion(prediction, scene.target)]

    parts: dict[str, Callable[[], Sequence[Tensor]]] = {
        "encoder": lambda: encode(model.encoder, scene.images)[2:],
        "pixel decoder": pixel_decoder,
        "mask-text decoder": mask_text_decoder,
        "matching": matching,
        "losses": losses,
    }
    functions = {name: _with_backward(part) for name, part in parts.items()}
    seconds = time_in_turn(functions, rounds, title="parts")
    return [
        Part(name, count_flops(function), count_bytes(function), seconds.median(name))
        for name, function in functions.items()
    ]


def _with_backward(part: Callable[[], Sequence[Tensor]]) -> Callable[[], None]:
    def forward_and_backward() -> None:
        outputs = part()
        if outputs:
            torch.autograd.backward(list(outputs), [torch.ones_like(output) for output in outputs])

    return forward_and_backward


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _detached(layer: MaskPrediction) -> MaskPrediction:
    return replace(
        layer,
        class_logits=_leaf(layer.class_logits),
        mask_embed=_leaf(layer.mask_embed),
        mask_features=_leaf(layer.mask_features),
        text_logits=None if layer.text_logits is None else _leaf(layer.text_logits),
        auxiliary=(),
    )
