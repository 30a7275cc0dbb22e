from __future__ import annotations

import pytest
import torch

from mtaclip_plugin.losses import MTACLIPLoss
from tests.losses.reference import leaves, make_prediction, reference_terms
from tests.losses.test_criterion import (
    assert_same_terms,
    make_target,
    map_tensors,
    seeded,
    small_loss,
)

# The first image holds 0, 1 and 3, the second 1 and 2.
KNOWN = [[True, True, False, True], [False, True, True, False]]
ALL = {"text_mask_weight": 1.0, "pixel_weight": 2.0}
WAYS = [{}, {"assignment": "by_class", "absent_mask_weight": 5.0}]


@pytest.mark.parametrize("options", WAYS)
def test_terms_and_gradients_equal_the_reference(options) -> None:
    prediction, target = make_prediction(text_masks=True, pixels=True), make_target()
    terms = small_loss(**options, **ALL).terms(prediction, target, seeded(), known=torch.tensor(KNOWN))
    expected, _ = reference_terms(
        prediction,
        target,
        generator=seeded(),
        num_points=40,
        by_class=bool(options),
        absent=options.get("absent_mask_weight", 0.0),
        text_mask=1.0,
        pixel=2.0,
        known=KNOWN,
    )
    assert_same_terms(terms, expected)
    tensors = list(leaves(prediction).values())
    ours, theirs = (torch.autograd.grad(sum(each.values()), tensors) for each in (terms, expected))
    for gradient, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, truth, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("prompts", [None, 3])
def test_what_is_predicted_for_unknown_classes_changes_neither_loss_nor_gradient(options, prompts) -> None:
    prediction, target = make_prediction(prompts=prompts, text_masks=True, pixels=True), make_target()
    known, loss = torch.tensor(KNOWN), small_loss(**options, **ALL)

    def columns(value: torch.Tensor) -> torch.Tensor:
        noise = 30 * torch.randn_like(value)
        unknown = torch.cat([~known, torch.zeros(2, 1, dtype=torch.bool)], 1)
        return torch.where(unknown.view(2, *[1] * (value.ndim - 2), 5), value + noise, value).detach().requires_grad_()

    def rows(value: torch.Tensor) -> torch.Tensor:
        unknown = ~known.view(2, 4, *[1] * (value.ndim - 2))
        return torch.where(unknown, value + 30 * torch.randn_like(value), value).detach().requires_grad_()

    other = map_tensors(prediction, class_logits=columns, text_logits=columns, text_mask_embed=rows, pixel_logits=rows)
    before, after = (loss.terms(p, target, seeded(), known=known) for p in (prediction, other))
    assert_same_terms(after, before, atol=0, rtol=0)
    gradients = [
        torch.autograd.grad(sum(terms.values()), list(leaves(p).values()))
        for p, terms in ((prediction, before), (other, after))
    ]
    for name, first, second in zip(leaves(prediction), *gradients, strict=True):
        assert torch.equal(first, second), name


@pytest.mark.parametrize("options", WAYS)
def test_all_known_is_no_difference(options) -> None:
    prediction, target = make_prediction(text_masks=True), make_target()
    loss = small_loss(text_mask_weight=1.0, **options)
    plain = loss.terms(prediction, target, seeded())
    known = loss.terms(prediction, target, seeded(), known=torch.ones(2, 4, dtype=torch.bool))
    assert_same_terms(known, plain, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("options", WAYS)
def test_the_loss_of_an_image_is_its_share_of_the_loss_of_its_batch(options) -> None:
    prediction, target = make_prediction(text_masks=True, pixels=True), make_target()
    known, loss = torch.tensor(KNOWN), small_loss(**options, **ALL)
    whole = loss.normalizers(target, num_queries=5, num_classes=4)
    parts = []
    for i in range(2):
        own = map_tensors(
            prediction,
            **dict.fromkeys(
                ("class_logits", "mask_embed", "mask_features", "text_logits", "text_mask_embed", "pixel_logits"),
                lambda value, i=i: value[i : i + 1],
            ),
        )
        parts.append(loss(own, target[i : i + 1], [seeded(i)], whole, known[i : i + 1]))
    torch.testing.assert_close(sum(parts), loss(prediction, target, [seeded(0), seeded(1)], known=known))


def test_none_is_said_of_what_lies_on_labels_only() -> None:
    # One query, whose mask lies on unlabelled pixels alone: an unknown class may be there.
    prediction = make_prediction(batch=1, queries=1, classes=2, layers=1, prompts=None, image_size=(32, 32))
    features = torch.zeros(1, 6, 8, 8)
    features[:, 0] = -40.0
    features[:, 0, :3] = 40.0  # rows 0 to 11
    embed = torch.zeros(1, 1, 6)
    embed[..., 0] = 1
    prediction = map_tensors(prediction, mask_features=lambda _: features, mask_embed=lambda _: embed)
    target = torch.full((1, 32, 32), 255)
    loss = small_loss(num_points=400)
    known = torch.tensor([[True, False]])
    assert loss.terms(prediction, target, seeded(), known=known)["0/class"] == 0
    assert loss.terms(prediction, target, seeded())["0/class"] > 0


def test_bad_input() -> None:
    prediction, target = make_prediction(), make_target()
    with pytest.raises(ValueError, match=r"known must be \(B, K\) = \(2, 4\) bool, got .* \(2, 3\)"):
        MTACLIPLoss()(prediction, target, known=torch.ones(2, 3, dtype=torch.bool))
    wrong = torch.tensor([[True, True, False, True], [True, False, True, True]])
    with pytest.raises(ValueError, match="image 1 of the batch holds the class 1, which known says"):
        MTACLIPLoss()(prediction, target, known=wrong)
