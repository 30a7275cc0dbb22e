"""What would be wrong on a GPU alone is found."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

import mtaclip_plugin as mta
from mtaclip_plugin.decoder import mask_text_decoder
from mtaclip_plugin.losses import criterion as criterion_module
from tests.emulated_cuda.test_variants import BANK, data, train
from tests.test_model import build


def test_a_tensor_of_the_host_in_the_loss(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model, criterion = build(**BANK), mta.MTACLIPLoss(num_points=64)
    monkeypatch.setattr(criterion_module, "sent", lambda tensor, device: tensor)
    with cuda.emulated_cuda():
        images, labels = (tensor.to("cuda") for tensor in data(3))
        with pytest.raises(RuntimeError, match=r"same device.*mtaclip_plugin/losses/.*cpu"):
            train(model.to("cuda"), criterion, images, labels)


def test_a_look_at_a_number_in_the_decoder(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model, criterion = build(**BANK), mta.MTACLIPLoss(num_points=64)
    mask_of = mask_text_decoder.attention_mask

    def waiting_mask(mask_embed: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        mask = mask_of(mask_embed, features)
        mask.any().item()
        return mask

    with cuda.emulated_cuda():
        model.to("cuda")
        images, labels = (tensor.to("cuda") for tensor in data(3))
        with cuda.metered() as meter:
            train(model, criterion, images, labels)
        expected = meter.waits.total()
        monkeypatch.setattr(mask_text_decoder, "attention_mask", waiting_mask)
        with cuda.metered() as meter:
            train(model, criterion, images, labels)
    layers = len(model.decoder.mask_text_decoder.layers)
    assert meter.waits.total() == expected + layers
    assert sum(number for place, number in meter.waits.items() if "item" in place) == layers


def test_memory_that_is_not_page_locked(cuda: ModuleType) -> None:
    tensor = torch.ones(3)
    with cuda.emulated_cuda(), cuda.metered() as meter:
        tensor.to("cuda", non_blocking=True)
        assert meter.waits.total() == 1
        tensor.pin_memory().to("cuda", non_blocking=True)
        torch.ones(3, device="cuda").tolist()
    assert meter.waits.total() == 2
