"""What a GPU makes of several predictions, or weights, at once is what is made of one after another."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import mtaclip_plugin as mta
from mtaclip_plugin import structures
from mtaclip_plugin.decoder import decoder as decoder_module
from tests.emulated_cuda.test_variants import BANK, data
from tests.test_model import build

ALL = {"text_masks": 1.0, "pixel_scores": 1.0}
ALL_WEIGHTS = {"text_mask_weight": 1.0, "pixel_weight": 10.0}


def terms_and_gradients(
    model: mta.MTACLIP, criterion: mta.MTACLIPLoss, images: Tensor, labels: Tensor, known: Tensor | None = None
) -> dict[str, Tensor]:
    prediction = model.train()(images, return_masks=True)
    terms = criterion.terms(prediction, labels, torch.Generator().manual_seed(1), known=known)
    torch.stack(list(terms.values())).sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {name: value.detach().cpu() for name, value in (terms | gradients).items()}


def off_the_middle_of_pixels(model: mta.MTACLIP) -> mta.MTACLIP:
    for key, parameter in model.named_parameters():
        if "sampling_offsets.bias" in key:  # where the slope would be left to rounding
            torch.nn.init.uniform_(parameter, 0.1, 0.4)
    return model


@pytest.mark.parametrize("values_at_once", [5000, structures.VALUES_AT_ONCE], ids=["few", "all"])
@pytest.mark.parametrize(
    "weights",
    [ALL_WEIGHTS, ALL_WEIGHTS | {"assignment": "by_class", "absent_mask_weight": 1.0}],
    ids=["hungarian", "by class"],
)
def test_predictions(
    cuda: ModuleType, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Any], values_at_once: int
) -> None:
    monkeypatch.setattr(structures, "VALUES_AT_ONCE", values_at_once)
    model = off_the_middle_of_pixels(build(**BANK, **ALL, decoder_layers=4))
    criterion = mta.MTACLIPLoss(num_points=64, **weights)
    images, labels = data(3)
    known = torch.tensor([[True, True, False], [True, True, True]])
    labels[0][labels[0] == 2] = 255
    other = copy.deepcopy(model)
    expected = terms_and_gradients(model, criterion, images, labels, known)
    with cuda.emulated_cuda():
        there = [tensor.to("cuda") for tensor in (images, labels, known)]
        actual = terms_and_gradients(other.to("cuda"), criterion, *there)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.abs().max())
        assert float((actual[name] - value).abs().max()) <= 1e-3 * scale + 1e-6, name


def test_weights_are_cast(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model, criterion = build(**BANK, **ALL, aux_params={"classes": 2}), mta.MTACLIPLoss(num_points=64)
    images, labels = data(3)
    results, launches = [], []

    def train(model: mta.MTACLIP) -> None:
        with cuda.emulated_cuda():
            other = copy.deepcopy(model).to("cuda")
            with cuda.metered() as meter, torch.autocast("cuda", torch.bfloat16):
                results.append(terms_and_gradients(other, criterion, images.to("cuda"), labels.to("cuda")))
            torch.clear_autocast_cache()
            launches.append(meter.launches.total())

    train(model)
    monkeypatch.setattr(
        decoder_module, "with_weights_cast", lambda module, *inputs, **options: module(*inputs, **options)
    )
    train(model)
    monkeypatch.undo()
    model.decoder.mask_text_decoder.layers[0].register_forward_pre_hook(lambda *_: None)
    train(model)
    together, apart, hooked = results
    assert together.keys() == apart.keys() == hooked.keys()
    assert all(torch.equal(together[name], apart[name]) and torch.equal(hooked[name], apart[name]) for name in apart)
    assert launches[0] < launches[2] < launches[1]
