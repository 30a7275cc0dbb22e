from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mtaclip_plugin.losses import (
    class_loss,
    contrastive_loss,
    mask_bce_loss,
    mask_dice_loss,
    pairwise_mask_bce,
    pairwise_mask_dice,
)

YES, NO = True, False


def test_mask_bce_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3), 7.0], [math.log(3), 0.0, 0.0]])
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.25, 1.0]])
    valid = torch.tensor([[YES, YES, NO], [YES, YES, NO]])
    # sigma(log 3) = 3/4. Mask 0: -(log 1/2 + log 3/4) / 2; mask 1: -(log 1/4 + log 1/2) / 2.
    expected = [(math.log(2) + math.log(4 / 3)) / 2, (math.log(4) + math.log(2)) / 2]
    torch.testing.assert_close(mask_bce_loss(logits, targets, valid), torch.tensor(expected))


def test_mask_dice_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3), 7.0]])
    targets = torch.tensor([[1.0, 0.0, 1.0]])
    valid = torch.tensor([[YES, YES, NO]])
    # overlap 1/2, sizes 5/4 and 1: 1 - (2 * 1/2 + 1) / (9/4 + 1).
    torch.testing.assert_close(mask_dice_loss(logits, targets, valid), torch.tensor([1 - 2 / 3.25]))


@pytest.mark.parametrize("loss", [mask_bce_loss, mask_dice_loss])
def test_mask_without_a_valid_point_has_neither_loss_nor_gradient(loss) -> None:
    logits = torch.tensor([[3.0, -2.0]], requires_grad=True)
    value = loss(logits, torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2, dtype=torch.bool))
    value.sum().backward()
    assert value.item() == 0
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize(
    ("pairwise", "single"), [(pairwise_mask_bce, mask_bce_loss), (pairwise_mask_dice, mask_dice_loss)]
)
def test_costs_are_the_losses_of_all_pairs(pairwise, single) -> None:
    torch.manual_seed(0)
    logits, targets, valid = 9 * torch.randn(2, 4, 50), torch.rand(2, 3, 50), torch.rand(2, 50) < 0.6
    valid[1] = False
    costs = pairwise(logits, targets, valid)
    assert costs.shape == (2, 4, 3)
    for b in range(2):
        for q in range(4):
            expected = single(logits[b, q].expand(3, -1), targets[b], valid[b].expand(3, -1))
            torch.testing.assert_close(costs[b, q], expected)


def test_class_loss_with_its_weights_summed_is_the_weighted_mean() -> None:
    torch.manual_seed(0)
    logits, labels, weights = (
        torch.randn(6, 4),
        torch.tensor([0, 1, 2, 3, 3, 3]),
        torch.tensor([1, 2, 3, 0.1]),
    )
    loss = class_loss(logits, labels, weights, normalizer=6.3)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, weights))


# Two prompts (rows) and three classes; the exponentials are 1, 2, 3 and 4, 5, 6.
TEXT_LOGITS = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]).log()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("mixneg", -math.log(5 / 21)),  # the positive of class 1 is prompt 1
        ("separateneg", -math.log(5 / (5 + 1 + 3 + 4 + 6))),  # without prompt 0 of class 1
        ("allpos", -(math.log(2 / 21) + math.log(5 / 21)) / 2),
    ],
)
def test_contrastive_modes_by_hand(mode, expected) -> None:
    labels, weights = torch.tensor([1]), torch.tensor([1.0])
    loss = contrastive_loss(TEXT_LOGITS, labels, weights, mode=mode, normalizer=1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    # Two queries with weights 1 and 3, the second of class 2, both over a normaliser of 4.
    second = contrastive_loss(TEXT_LOGITS, torch.tensor([2]), weights, mode=mode, normalizer=1.0).item()
    both = contrastive_loss(
        TEXT_LOGITS.repeat(2, 1, 1), torch.tensor([1, 2]), torch.tensor([1.0, 3.0]), mode=mode, normalizer=4.0
    )
    assert both.item() == pytest.approx((expected + 3 * second) / 4, rel=1e-6)


def test_contrastive_gradient_reaches_the_prompts_that_the_mode_names() -> None:
    def gradient(mode) -> torch.Tensor:
        text_logits = TEXT_LOGITS.clone().requires_grad_()
        contrastive_loss(text_logits, torch.tensor([1]), torch.ones(1), mode=mode, normalizer=1.0).backward()
        assert text_logits.grad is not None
        return text_logits.grad[0, :, 1]

    assert gradient("mixneg")[0] > 0  # the other prompt of the class is a negative
    assert gradient("separateneg")[0] == 0  # it takes no part
    assert gradient("allpos")[0] < 0  # it is a positive
    assert all(gradient(mode)[1] < 0 for mode in ("mixneg", "separateneg", "allpos"))


def test_contrastive_loss_is_finite_for_large_logits() -> None:
    text_logits = torch.tensor([[[1000.0, -1000.0], [0.0, 500.0]]])
    for mode, expected in (("mixneg", 500), ("separateneg", 500), ("allpos", 1250)):
        loss = contrastive_loss(text_logits, torch.tensor([1]), torch.ones(1), mode=mode, normalizer=1.0)
        assert loss.item() == expected


def test_unknown_contrastive_mode() -> None:
    with pytest.raises(ValueError, match="'mixneg', 'separateneg' or 'allpos', got 'hard'"):
        contrastive_loss(TEXT_LOGITS, torch.tensor([1]), torch.ones(1), mode="hard", normalizer=1.0)
