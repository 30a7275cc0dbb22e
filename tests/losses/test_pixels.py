from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mtaclip_plugin.losses import MTACLIPLoss, pixels
from tests.losses.reference import make_prediction, reference_terms
from tests.losses.test_criterion import assert_same_gradients, assert_same_terms, make_target, seeded, small_loss


def test_terms_and_gradients_equal_the_reference() -> None:
    prediction, target = make_prediction(pixels=True), make_target()
    terms = small_loss(pixel_weight=10.0).terms(prediction, target, seeded())
    expected, _ = reference_terms(prediction, target, generator=seeded(), num_points=40, pixel=10.0)
    assert_same_terms(terms, expected)
    assert_same_gradients(prediction, terms, expected)


def test_without_a_weight_nothing_changes_to_the_bit() -> None:
    before = small_loss().terms(make_prediction(), make_target(), seeded())
    after = small_loss().terms(make_prediction(pixels=True), make_target(), seeded())
    assert_same_terms(after, before, atol=0, rtol=0)


def test_by_hand() -> None:
    # Four alike logits: p = 1/4 everywhere; class 0 fills the image of 4 pixels.
    prediction = make_prediction(batch=1, layers=1, image_size=(2, 2), padded_size=(4, 4), pixels=True)
    flat = replace(prediction, pixel_logits=torch.zeros(1, 4, 1, 1))
    terms = small_loss(pixel_weight=1.0).terms(flat, torch.zeros(1, 2, 2, dtype=torch.int64), seeded())
    torch.testing.assert_close(terms["pixels/cross_entropy"].item(), math.log(4))
    torch.testing.assert_close(terms["pixels/dice"].item(), 1 - (2 * 1 + 1) / (1 + 4 + 1))


def test_ignored_pixels_change_nothing() -> None:
    prediction = make_prediction(image_size=(64, 64), padded_size=(64, 96), pixels=True)
    target = make_target((64, 64))
    target[:, 16:48, 16:48] = 255
    changed = prediction.pixel_logits.detach().clone()
    changed[:, :, 5:11, 5:11] += 100 * torch.randn(4)[:, None, None]
    changed[:, :, :, 18:] -= 100 * torch.randn(4)[:, None, None]  # the padding
    loss = small_loss(pixel_weight=1.0)
    before, after = (loss.terms(p, target, seeded()) for p in (prediction, replace(prediction, pixel_logits=changed)))
    assert_same_terms(after, before, atol=0, rtol=0)
    as_background = small_loss(pixel_weight=1.0, ignored_pixels="background").terms(prediction, target, seeded())
    assert torch.equal(as_background["pixels/dice"], before["pixels/dice"])


@pytest.mark.parametrize("ignored", [0, 2])
def test_an_ignored_id_may_be_that_of_a_class(ignored: int) -> None:
    """It is as if its pixels, and those of the padding, had the usual id of no label."""
    prediction = make_prediction(pixels=True)
    target = make_target()
    target[target == ignored] = 255
    expected = small_loss(pixel_weight=1.0)
    loss = small_loss(pixel_weight=1.0, ignore_index=ignored)
    same = torch.where(target == 255, ignored, target)
    given, wanted = loss.terms(prediction, same, seeded()), expected.terms(prediction, target, seeded())
    assert_same_terms(given, wanted, atol=0, rtol=0)
    sizes = {"num_queries": 5, "num_classes": 4}
    assert loss.normalizers(same, **sizes) == expected.normalizers(target, **sizes)


def test_micro_batches_and_processes_add_up() -> None:
    prediction, target, loss = make_prediction(pixels=True), make_target(), small_loss(pixel_weight=1.0)
    first, second = (loss.normalizers(target[i : i + 1], num_queries=5, num_classes=4) for i in range(2))
    whole = loss.normalizers(target, num_queries=5, num_classes=4)
    assert first + second == whole and whole.pixels == (target != 255).sum()
    targets = loss._targets(target, 4, prediction.padded_size)
    together = pixels.pixel_losses(prediction, targets)
    halves = [
        pixels.pixel_losses(
            replace(prediction, pixel_logits=prediction.pixel_logits[i : i + 1]),
            loss._targets(target[i : i + 1], 4, prediction.padded_size),
        )
        for i in range(2)
    ]
    torch.testing.assert_close(sum(half.cross_entropy for half in halves), together.cross_entropy)
    torch.testing.assert_close(sum(half.dice for half in halves), together.dice)


def test_an_image_without_labels_has_no_loss_and_yet_a_gradient() -> None:
    prediction = make_prediction(pixels=True)
    terms = small_loss(pixel_weight=1.0).terms(prediction, torch.full((2, 30, 27), 255), seeded())
    assert terms["pixels/cross_entropy"] == 0 and terms["pixels/dice"] == 0
    (gradient,) = torch.autograd.grad(sum(terms.values()), [prediction.pixel_logits])
    assert not gradient.any()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"no pixel logits .* build the model with pixel_scores above 0"):
        MTACLIPLoss(pixel_weight=1.0)(make_prediction(), make_target())
    with pytest.raises(ValueError, match="pixel_weight"):
        MTACLIPLoss(pixel_weight=float("nan"))
