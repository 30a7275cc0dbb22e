from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mtaclip_plugin.losses import MTACLIPLoss
from tests.losses.reference import make_prediction, reference_terms
from tests.losses.test_criterion import (
    assert_same_gradients,
    assert_same_terms,
    make_target,
    map_tensors,
    seeded,
    small_loss,
)

BY_CLASS = {"assignment": "by_class", "absent_mask_weight": 5.0}


@pytest.mark.parametrize("options", [{}, BY_CLASS])
def test_terms_and_gradients_equal_the_reference(options) -> None:
    prediction, target = make_prediction(text_masks=True), make_target()
    terms = small_loss(text_mask_weight=0.7, **options).terms(prediction, target, seeded())
    expected, _ = reference_terms(
        prediction,
        target,
        generator=seeded(),
        num_points=40,
        by_class=bool(options),
        absent=options.get("absent_mask_weight", 0.0),
        text_mask=0.7,
    )
    assert_same_terms(terms, expected)
    assert_same_gradients(prediction, terms, expected)


def test_without_a_weight_nothing_changes_to_the_bit() -> None:
    plain = make_prediction()
    with_masks = make_prediction(text_masks=True)
    before = small_loss().terms(plain, make_target(), seeded())
    after = small_loss().terms(with_masks, make_target(), seeded())
    assert_same_terms(after, before, atol=0, rtol=0)
    weighted = small_loss(text_mask_weight=1.0).terms(with_masks, make_target(), seeded())
    assert_same_terms({name: weighted[name] for name in before}, before, atol=0, rtol=0)


def test_permuting_classes_permutes_nothing_but_them() -> None:
    prediction, target, loss = make_prediction(text_masks=True), make_target(), small_loss(text_mask_weight=1.0)
    order = torch.tensor([2, 0, 3, 1])  # new class k was order[k]
    columns = torch.cat([order, torch.tensor([4])])
    permuted = map_tensors(
        prediction,
        class_logits=lambda value: value[..., columns],
        text_logits=lambda value: value[..., columns],
        text_mask_embed=lambda value: value[:, order],
    )
    table = torch.full((256,), 255)
    table[order] = torch.arange(4)
    assert_same_terms(loss.terms(permuted, table[target], seeded()), loss.terms(prediction, target, seeded()))


def test_an_image_without_labels_has_no_loss_of_text_masks_and_yet_gradients() -> None:
    prediction, loss = make_prediction(text_masks=True), small_loss(text_mask_weight=1.0)
    terms = loss.terms(prediction, torch.full((2, 30, 27), 255), seeded())
    assert all(value == 0 for name, value in terms.items() if "text_" in name)
    gradients = torch.autograd.grad(sum(terms.values()), [layer.text_mask_embed for layer in prediction.layers])
    assert not any(gradient.any() for gradient in gradients)


def test_a_single_class() -> None:
    prediction = make_prediction(classes=1, text_masks=True)
    target = (make_target(ignored=False) == 1).long()
    terms = small_loss(text_mask_weight=1.0).terms(prediction, target, seeded())
    assert terms["2/text_mask"] > 0 and terms["2/text_absent"] == 0
    terms = small_loss(text_mask_weight=1.0).terms(prediction, torch.zeros_like(target), seeded())
    assert terms["2/text_mask"] == 0 and terms["2/text_absent"] > 0


def test_by_hand() -> None:
    # One class fills the image, its logit is 0 everywhere; the other is absent, and its logit is 0, too.
    prediction = make_prediction(batch=1, classes=2, layers=1, text_masks=True)
    flat = replace(prediction, text_mask_embed=torch.zeros(1, 2, 6))
    terms = small_loss(text_mask_weight=2.0).terms(flat, torch.zeros(1, 30, 27, dtype=torch.int64), seeded())
    log2 = torch.log(torch.tensor(2.0))
    torch.testing.assert_close(terms["0/text_mask"], 2 * 5 * log2)
    torch.testing.assert_close(terms["0/text_absent"], 2 * 5 * log2)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"no masks of text queries .* build the model with text_masks above 0"):
        MTACLIPLoss(text_mask_weight=1.0)(make_prediction(), make_target())
    with pytest.raises(ValueError, match=r"text_mask_weight=1.0 needs random points"):
        MTACLIPLoss(text_mask_weight=1.0, importance_ratio=1.0)
    with pytest.raises(ValueError, match="text_mask_weight"):
        MTACLIPLoss(text_mask_weight=-1.0)
