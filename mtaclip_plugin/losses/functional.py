"""The losses and matching costs as pure functions of tensors, in float32.

Masks are compared on points: at each a mask logit x, a soft target t in [0, 1] and a validity v in {0, 1}.
A point with v = 0 lies on an ignored pixel and takes no part in any sum.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ContrastiveMode = Literal["mixneg", "separateneg", "allpos"]


def mask_bce_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    r"""Binary cross-entropy of each mask, averaged over its valid points: :math:`\sum v\,bce(x,t) / \sum v`.

    A mask without a valid point has loss 0 and gradient 0.

    Args:
        logits: (N, P) mask logits x at P points.
        targets: (N, P) targets t in [0, 1].
        valid: (N, P) bool.

    Returns:
        (N) losses.

    Example:
        >>> mask_bce_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
        tensor([0.6931])
    """
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (bce * valid).sum(1) / valid.sum(1).clamp(min=1)


def mask_dice_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    r"""Dice loss of each mask: :math:`1 - (2\sum v\,\sigma(x) t + 1) / (\sum v\,\sigma(x) + \sum v\,t + 1)`.

    A mask without a valid point has loss 0 and gradient 0.

    Args:
        logits: (N, P) mask logits x at P points.
        targets: (N, P) targets t in [0, 1].
        valid: (N, P) bool.

    Returns:
        (N) losses.

    Example:
        >>> mask_dice_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
        tensor([0.3333])
    """
    probabilities = logits.sigmoid() * valid
    overlap = (probabilities * targets).sum(1)
    size = probabilities.sum(1) + (targets * valid).sum(1)
    return 1 - (2 * overlap + 1) / (size + 1)


def pairwise_mask_bce(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """:func:`mask_bce_loss` of every query with every target mask of its image; not for backward.

    bce(x, t) = softplus(x) - x t is linear in t, so one matrix product gives all pairs.

    Args:
        logits: (B, Q, P) mask logits at P points.
        targets: (B, M, P) targets in [0, 1] of M masks.
        valid: (B, P) bool.

    Returns:
        (B, Q, M) costs.
    """
    weights = valid.to(logits.dtype)
    # softplus(x) = max(x, 0) - log sigmoid(|x|): as exact in a sum, three times faster on a CPU.
    softplus = logits.relu() - logits.abs().sigmoid_().log_()
    empty = softplus @ weights[:, :, None]
    drawn = logits @ (targets * weights[:, None]).mT
    return (empty - drawn) / weights.sum(1).clamp(min=1)[:, None, None]


def pairwise_mask_dice(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """:func:`mask_dice_loss` of every query with every target mask of its image.

    Args:
        logits: (B, Q, P) mask logits at P points.
        targets: (B, M, P) targets in [0, 1] of M masks.
        valid: (B, P) bool.

    Returns:
        (B, Q, M) costs.
    """
    weights = valid.to(logits.dtype)
    probabilities = logits.sigmoid()
    targets = targets * weights[:, None]
    overlap = probabilities @ targets.mT
    size = probabilities @ weights[:, :, None] + targets.sum(2)[:, None]
    return 1 - (2 * overlap + 1) / (size + 1)


def class_loss(
    logits: Tensor, labels: Tensor, class_weights: Tensor, *, normalizer: float, shares: Tensor | None = None
) -> Tensor:
    r"""Weighted cross-entropy with the divisor given: :math:`\sum_n w_{y_n}\,(-\log softmax(x_n)_{y_n}) / Z`.

    With Z the sum of the labels' weights this is ``F.cross_entropy(logits, labels, class_weights)``.

    Args:
        logits: (..., N, K+1) class logits.
        labels: (..., N) int64 labels in [0, K]; K is "none".
        class_weights: (K+1) weights w.
        normalizer: Z.
        shares: (..., N) factors on the terms of the sum; all 1 if ``None``.

    Returns:
        (...) losses, each of N terms.

    Example:
        >>> class_loss(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([1.0, 0.1]), normalizer=1.1)
        tensor(0.6931)
    """
    if shares is None and labels.ndim == 1:
        return F.cross_entropy(logits, labels, class_weights, reduction="sum") / normalizer
    terms = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), class_weights, reduction="none").view_as(labels)
    return (terms if shares is None else shares * terms).sum(-1) / normalizer


def contrastive_loss(
    text_logits: Tensor, labels: Tensor, weights: Tensor, *, mode: ContrastiveMode, normalizer: float
) -> Tensor:
    r"""Mask-to-Text Contrastive Learning of the paper: :math:`\sum_n w_n \ell_n / Z`.

    With :math:`s_{pk}` the logits of one query, y its label and :math:`p^* = \arg\max_p s_{py}` its positive:

    - ``mixneg``: :math:`\ell = -s_{p^*y} + \log \sum_{p,k} e^{s_{pk}}`;
    - ``separateneg``: the same, the sum without the other prompts of y (p ≠ p*, k = y);
    - ``allpos``: :math:`\ell = -\frac{1}{P} \sum_p s_{py} + \log \sum_{p,k} e^{s_{pk}}`.

    Args:
        text_logits: (..., N, P, K+1) similarities s of N queries and all prompts, times the logit scale.
        labels: (..., N) int64 labels in [0, K]; K is "none".
        weights: (..., N) weight w of each query.
        mode: which prompts are positives and negatives; the official default is "mixneg".
        normalizer: Z.

    Returns:
        (...) losses, each of N terms.

    Raises:
        ValueError: If ``mode`` is none of the three.

    Example:
        >>> contrastive_loss(
        ...     torch.zeros(1, 2, 3), torch.tensor([0]), torch.ones(1), mode="separateneg", normalizer=1.0
        ... )  # log(1 + 4)
        tensor(1.6094)
    """
    own = text_logits.gather(-1, labels[..., None, None].expand(*text_logits.shape[:-1], 1)).squeeze(-1)
    if mode == "mixneg":
        positive = own.max(-1).values
        denominator = text_logits.flatten(-2).logsumexp(-1)
    elif mode == "separateneg":
        positive = own.max(-1).values
        own_columns = F.one_hot(labels, text_logits.shape[-1]).bool()[..., None, :]
        negatives = text_logits.masked_fill(own_columns, -torch.inf).flatten(-2).logsumexp(-1)
        denominator = torch.logaddexp(positive, negatives)
    elif mode == "allpos":
        positive = own.mean(-1)
        denominator = text_logits.flatten(-2).logsumexp(-1)
    else:
        raise ValueError(f"contrastive mode must be 'mixneg', 'separateneg' or 'allpos', got {mode!r}.")
    return (weights * (denominator - positive)).sum(-1) / normalizer
