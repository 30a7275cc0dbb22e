"""What the loss is computed in: float32, or float64, whatever the model and torch's default are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from mtaclip_plugin.losses import MTACLIPLoss
from mtaclip_plugin.structures import MaskPrediction
from tests import test_model
from tests.losses.reference import make_prediction
from tests.losses.test_criterion import assert_same_terms, make_target, map_tensors, seeded, small_loss

FIELDS = ("class_logits", "mask_embed", "mask_features", "text_logits", "text_mask_embed", "pixel_logits")
EVERYTHING = {"text_mask_weight": 1.0, "pixel_weight": 1.0}
LOSSES: dict[str, dict[str, Any]] = {
    "hungarian": EVERYTHING,
    "by_class": EVERYTHING | {"assignment": "by_class", "absent_mask_weight": 1.0},
}
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def cast(prediction: MaskPrediction, dtype: torch.dtype) -> MaskPrediction:
    return map_tensors(prediction, **dict.fromkeys(FIELDS, lambda value: value.detach().to(dtype)))


def terms(loss: MTACLIPLoss, prediction: MaskPrediction, *, partly_known: bool) -> dict[str, Tensor]:
    known = torch.tensor([[True, True, False, True], [True, True, True, True]]) if partly_known else None
    target = make_target()
    if known is not None:
        target[0][target[0] == 2] = 255
    return loss.terms(prediction, target, seeded(), known=known)


@pytest.mark.parametrize("partly_known", [False, True])
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_neither_the_model_s_dtype_nor_the_default_one_changes_the_loss(
    dtype: torch.dtype, kind: str, partly_known: bool
) -> None:
    loss, given = small_loss(**LOSSES[kind]), make_prediction(text_masks=True, pixels=True)
    rounded = cast(given, dtype)
    expected = terms(loss, cast(rounded, torch.float32), partly_known=partly_known)
    for default in (dtype, torch.float64, torch.bfloat16):
        with default_dtype(default):
            found = terms(loss, rounded, partly_known=partly_known)
        if dtype == torch.float64:
            assert_same_terms({name: term.float() for name, term in found.items()}, expected, atol=1e-5, rtol=1e-5)
        else:
            assert_same_terms(found, expected, atol=0, rtol=0)
        assert {term.dtype for term in found.values()} == {torch.promote_types(dtype, torch.float32)}


def test_float64_is_not_rounded_on_the_way() -> None:
    """Differences that float32 can not see are seen."""
    given = cast(make_prediction(text_masks=True, pixels=True), torch.float64)
    moved = map_tensors(given, **dict.fromkeys(FIELDS, lambda value: value * (1 + 1e-11)))
    loss = small_loss(**LOSSES["by_class"])
    first, second = (terms(loss, prediction, partly_known=False) for prediction in (given, moved))
    for name, term in first.items():
        assert 0 < abs(second[name] - term) < 1e-8, name


@pytest.mark.parametrize("built_in_it", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_dtype_trains_and_evaluates(dtype: torch.dtype, built_in_it: bool) -> None:
    """As precisions called "true" have it: weights, images and the default dtype."""
    options = {"text_masks": 1.0, "pixel_scores": 1.0, "center_text": True, "clip_masks": "pool"}
    with default_dtype(dtype if built_in_it else torch.float32):
        model = test_model.build(decoder_layers=1, **options).to(dtype)
    images, target = torch.randn(2, 3, 50, 64, dtype=dtype), torch.randint(3, (2, 50, 64))
    with default_dtype(dtype):
        loss = MTACLIPLoss(num_points=64, **EVERYTHING)(model(images, return_masks=True), target)
        loss.backward()
        logits = model.predict(images)
    assert loss.dtype == torch.promote_types(dtype, torch.float32) and loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == dtype and parameter.grad.isfinite().all(), name
    assert logits.isfinite().all()
