"""Every kind of model trains and evaluates on one device, with the loss and the gradients that it has on the CPU."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import mtaclip_plugin as mta
from tests.test_model import build

BANK = {"text_encoder": "bank", "text_embeddings": torch.randn(2, 4, 24, generator=torch.Generator().manual_seed(0))}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "without text": ({"text_encoder": None}, {}),
    "tower": ({}, {}),
    "bidirectional tower": ({"text_encoder": "tiny-bidirectional"}, {}),
    "bank": (BANK, {"contrastive_mode": "separateneg"}),
    "learned none": (BANK | {"text_embeddings": BANK["text_embeddings"][0, :3]}, {}),
    "centred text": (BANK | {"center_text": True, "input_norm": "all", "text_positions": "token"}, {}),
    "fpn": (BANK | {"pixel_decoder": "fpn"}, {"contrastive_mode": "allpos"}),
    "context fpn": (BANK | {"pixel_decoder": "context_fpn"}, {"ignored_pixels": "background"}),
    "by class": (BANK, {"assignment": "by_class", "absent_mask_weight": 1.0, "mask_normalizer": "class_weights"}),
    "text masks and pixels": (
        BANK | {"text_masks": 1.0, "pixel_scores": 1.0},
        {"text_mask_weight": 1.0, "pixel_weight": 10.0},
    ),
    "masks named by pixels": (
        BANK | {"classification": "pixels", "pixel_scores": 1.0, "score_join": "product"},
        {"pixel_weight": 10.0},
    ),
    "ensemble": (BANK | {"classification": "ensemble", "aux_params": {"classes": 2}}, {"class_weights": [1, 2, 3]}),
    "clip masks": ({"clip_masks": "pool"}, {}),
    "one class": ({"classes": 1, "class_names": None}, {}),
}


def data(classes: int) -> tuple[Tensor, Tensor]:
    """Two images, the labels in blocks, some of them ignored."""
    images = torch.randn(2, 3, 50, 64)
    labels = torch.randint(0, max(classes, 2), (2, 4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :50]
    labels[0, :20, 30:] = 255
    return images, labels


def train(model: mta.MTACLIP, criterion: mta.MTACLIPLoss, images: Tensor, labels: Tensor) -> Tensor:
    loss = criterion(model.train()(images, return_masks=True), labels, torch.Generator().manual_seed(1))
    loss.backward()
    return loss


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_on_one_device(cuda: ModuleType, name: str) -> None:
    options, weights = VARIANTS[name]
    model, criterion = build(**options), mta.MTACLIPLoss(num_points=64, **weights)
    for key, parameter in model.named_parameters():
        if "sampling_offsets.bias" in key:  # off the middle of pixels, where the slope would be left to rounding
            torch.nn.init.uniform_(parameter, 0.1, 0.4)
    images, labels = data(model.config["classes"])
    other = copy.deepcopy(model)
    loss = train(model, criterion, images, labels)
    predicted = model.predict_labels(images)
    with cuda.emulated_cuda():
        other.to("cuda")
        there = train(other, criterion, images.to("cuda"), labels.to("cuda"))
        found = other.predict_labels(images.to("cuda"))
        assert there.device == found.device == torch.device("cuda:0")
        torch.testing.assert_close(there.inside, loss, rtol=1e-5, atol=1e-5)
        for (key, expected), actual in zip(model.named_parameters(), other.parameters(), strict=True):
            assert (expected.grad is None) == (actual.grad is None), key
            if expected.grad is not None:
                scale = float(expected.grad.abs().max())
                error = float((actual.grad.inside - expected.grad).abs().max())
                assert error <= 1e-3 * scale + 1e-6, f"{key}: {error} of {scale}"
    assert (found.inside == predicted).float().mean() > 0.999
