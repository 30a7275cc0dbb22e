"""The losses written out: masks materialised, one prediction, image, mask and point after the other."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mtaclip_plugin.structures import MaskPrediction


def make_prediction(
    *,
    batch: int = 2,
    queries: int = 5,
    classes: int = 4,
    prompts: int | None = 3,
    layers: int = 3,
    image_size: tuple[int, int] = (30, 27),
    padded_size: tuple[int, int] = (32, 32),
    seed: int = 0,
    scale: float = 1.0,
) -> MaskPrediction:
    """A random prediction; every tensor in it asks for a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).requires_grad_()

    features = draw(batch, 6, padded_size[0] // 4, padded_size[1] // 4)
    predictions: list[MaskPrediction] = []
    for index in range(layers):
        predictions.append(
            MaskPrediction(
                class_logits=draw(batch, queries, classes + 1),
                mask_embed=draw(batch, queries, 6),
                mask_features=features,
                text_logits=None if prompts is None else draw(batch, queries, prompts, classes + 1),
                image_size=image_size,
                padded_size=padded_size,
                auxiliary=tuple(predictions) if index == layers - 1 else (),
            )
        )
    return predictions[-1]


def leaves(prediction: MaskPrediction) -> dict[str, Tensor]:
    """Every tensor of a prediction by name."""
    tensors = {"mask_features": prediction.mask_features}
    for index, layer in enumerate(prediction.layers):
        tensors[f"{index}/class_logits"] = layer.class_logits
        tensors[f"{index}/mask_embed"] = layer.mask_embed
        if layer.text_logits is not None:
            tensors[f"{index}/text_logits"] = layer.text_logits
    return tensors


def reference_terms(
    prediction: MaskPrediction,
    target: Tensor,
    *,
    generator: torch.Generator,
    num_points: int,
    mode: str = "mixneg",
    class_weights: list[float] | None = None,
    no_object: float = 0.1,
    ignore_index: int = 255,
    by_class: bool = False,
    absent: float = 0.0,
) -> tuple[dict[str, Tensor], list[list[dict[int, int]]]]:
    """The weighted terms, and for each prediction and image the query of each class."""
    batch, queries, columns = prediction.class_logits.shape
    none = columns - 1
    weights = [*(class_weights or [1.0] * none), no_object]
    bottom, right = (padded - size for padded, size in zip(prediction.padded_size, prediction.image_size, strict=True))
    target = F.pad(target, (0, right, 0, bottom), value=ignore_index)
    present = [[k for k in range(none) if (image == k).any()] for image in target]

    if not by_class:
        matcher_points = torch.rand(batch, num_points, 2, generator=generator)
    candidates = torch.rand(batch, 3 * num_points, 2, generator=generator)
    uncertain = int(0.75 * num_points)
    others = torch.rand(batch, num_points - uncertain, 2, generator=generator)

    num_masks = max(1, sum(map(len, present)))
    weight_sum = sum(weights[k] for classes in present for k in classes)
    weight_sum += no_object * (batch * queries - sum(map(len, present)))

    terms: dict[str, Tensor] = {}
    assignments: list[list[dict[int, int]]] = []
    for index, layer in enumerate(prediction.layers):
        class_sum = mask_sum = dice_sum = absent_sum = contrastive_sum = layer.class_logits.new_zeros(())
        assignments.append([])
        for b in range(batch):
            masks = layer.mask_logits[b]
            ignored = target[b] == ignore_index
            if by_class:
                matched = {k: k for k in present[b]}
            else:
                matched = match(layer.class_logits[b], masks, target[b], present[b], matcher_points[b], ignored)
            assignments[-1].append(matched)
            for k, q in matched.items():
                logits = sample(masks[q], candidates[b])
                candidate_valid = torch.tensor([is_valid(ignored, p) for p in candidates[b]])
                score = torch.where(candidate_valid, -logits.abs(), -math.inf)
                order = score.argsort(descending=True)[:uncertain]
                points = torch.cat([candidates[b][order], others[b]])
                bce, dice = mask_losses(masks[q], target[b] == k, points, ignored)
                mask_sum, dice_sum = mask_sum + bce, dice_sum + dice
            for k in set(range(none)) - set(present[b]):
                absent_sum = absent_sum + mask_losses(masks[k], torch.zeros_like(ignored), others[b], ignored)[0]
            label_of = {q: k for k, q in matched.items()}
            for q in range(queries):
                label = label_of.get(q, none)
                class_sum = class_sum - weights[label] * layer.class_logits[b, q].log_softmax(0)[label]
                if layer.text_logits is not None:
                    loss = contrastive(layer.text_logits[b, q], label, mode)
                    contrastive_sum = contrastive_sum + weights[label] * loss
        terms[f"{index}/class"] = 2 * class_sum / weight_sum
        terms[f"{index}/mask"] = 5 * mask_sum / num_masks
        terms[f"{index}/dice"] = 5 * dice_sum / num_masks
        if absent:
            terms[f"{index}/absent"] = absent * absent_sum / num_masks
        if layer.text_logits is not None:
            terms[f"{index}/contrastive"] = contrastive_sum / weight_sum
    return terms, assignments


def match(
    class_logits: Tensor, masks: Tensor, target: Tensor, present: list[int], points: Tensor, ignored: Tensor
) -> dict[int, int]:
    """The cheapest of all assignments of classes to queries, by trying each."""
    cost = {}
    for q, k in itertools.product(range(len(masks)), present):
        bce, dice = mask_losses(masks[q], target == k, points, ignored)
        cost[q, k] = (-2 * class_logits[q].softmax(0)[k] + 5 * bce + 5 * dice).item()
    choices = itertools.permutations(range(len(masks)), len(present))
    best = min(choices, key=lambda chosen: sum(cost[pair] for pair in zip(chosen, present, strict=True)))
    return dict(zip(present, best, strict=True))


def mask_losses(mask: Tensor, truth: Tensor, points: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and dice loss over the valid points."""
    points = points[torch.tensor([is_valid(ignored, point) for point in points])]
    logits, targets = sample(mask, points), sample(truth.float(), points)
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / max(1, len(points))
    p = logits.sigmoid()
    return bce, 1 - (2 * (p * targets).sum() + 1) / (p.sum() + targets.sum() + 1)


def sample(image: Tensor, points: Tensor) -> Tensor:
    return F.grid_sample(image[None, None], 2 * points[None, :, None] - 1, align_corners=False).flatten()


def is_valid(ignored: Tensor, point: Tensor) -> bool:
    height, width = ignored.shape
    left, top = math.floor(point[0].item() * width - 0.5), math.floor(point[1].item() * height - 0.5)
    corners = itertools.product((top, top + 1), (left, left + 1))
    return not any(0 <= y < height and 0 <= x < width and ignored[y, x] for y, x in corners)


def contrastive(text_logits: Tensor, label: int, mode: str) -> Tensor:
    """One query's loss, from the exponentials themselves."""
    prompts, columns = text_logits.shape
    everything = sum(text_logits[p, k].exp() for p in range(prompts) for k in range(columns))
    own = [text_logits[p, label] for p in range(prompts)]
    best = max(own, key=lambda value: value.item())
    if mode == "mixneg":
        return -(best.exp() / everything).log()
    if mode == "separateneg":
        others = sum(text_logits[p, k].exp() for p in range(prompts) for k in range(columns) if k != label)
        return -(best.exp() / (best.exp() + others)).log()
    return -sum((value.exp() / everything).log() for value in own) / prompts
