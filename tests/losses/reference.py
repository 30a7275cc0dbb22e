"""The losses written out: masks materialised, one prediction, image, mask and point after the other."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

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
    text_masks: bool = False,
    pixels: bool = False,
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
    if text_masks:
        predictions = [replace(layer, text_mask_embed=draw(batch, classes, 6)) for layer in predictions]
        predictions[-1] = replace(predictions[-1], auxiliary=tuple(predictions[:-1]))
    if pixels:
        grid = padded_size[0] // 4, padded_size[1] // 4
        predictions[-1] = replace(predictions[-1], pixel_logits=draw(batch, classes, *grid))
    return predictions[-1]


def leaves(prediction: MaskPrediction) -> dict[str, Tensor]:
    """Every tensor of a prediction by name."""
    tensors = {"mask_features": prediction.mask_features}
    for index, layer in enumerate(prediction.layers):
        tensors[f"{index}/class_logits"] = layer.class_logits
        tensors[f"{index}/mask_embed"] = layer.mask_embed
        if layer.text_logits is not None:
            tensors[f"{index}/text_logits"] = layer.text_logits
        if layer.text_mask_embed is not None:
            tensors[f"{index}/text_mask_embed"] = layer.text_mask_embed
    if prediction.pixel_logits is not None:
        tensors["pixel_logits"] = prediction.pixel_logits
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
    text_mask: float = 0.0,
    pixel: float = 0.0,
    known: list[list[bool]] | None = None,
) -> tuple[dict[str, Tensor], list[list[dict[int, int]]]]:
    """The weighted terms, and for each prediction and image the query of each class."""
    batch, queries, columns = prediction.class_logits.shape
    none = columns - 1
    weights = [*(class_weights or [1.0] * none), no_object]
    bottom, right = (padded - size for padded, size in zip(prediction.padded_size, prediction.image_size, strict=True))
    target = F.pad(target, (0, right, 0, bottom), value=ignore_index)
    present = [[k for k in range(none) if (image == k).any()] for image in target]
    known = known or [[True] * none] * batch
    columns = [[k for k in range(none) if row[k]] + [none] for row in known]

    if not by_class:
        matcher_points = torch.rand(batch, num_points, 2, generator=generator)
    candidates = torch.rand(batch, 3 * num_points, 2, generator=generator)
    uncertain = int(0.75 * num_points)
    others = torch.rand(batch, num_points - uncertain, 2, generator=generator)
    share_points = torch.rand(batch, num_points, 2, generator=generator)

    num_masks = max(1, sum(map(len, present)))
    weight_sum = sum(weights[k] for classes in present for k in classes)
    weight_sum += no_object * (batch * queries - sum(map(len, present)))

    terms: dict[str, Tensor] = {}
    assignments: list[list[dict[int, int]]] = []
    for index, layer in enumerate(prediction.layers):
        class_sum = mask_sum = dice_sum = absent_sum = contrastive_sum = layer.class_logits.new_zeros(())
        text_bce_sum = text_dice_sum = text_absent_sum = layer.class_logits.new_zeros(())
        assignments.append([])
        for b in range(batch):
            masks = layer.mask_logits[b]
            ignored = target[b] == ignore_index
            if by_class:
                matched = {k: k for k in present[b]}
            else:
                class_logits = layer.class_logits[b][:, columns[b]]
                matched = match(class_logits, columns[b], masks, target[b], present[b], matcher_points[b], ignored)
            assignments[-1].append(matched)
            for k, q in matched.items():
                logits = sample(masks[q], candidates[b])
                candidate_valid = torch.tensor([is_valid(ignored, p) for p in candidates[b]])
                score = torch.where(candidate_valid, -logits.abs(), -math.inf)
                order = score.argsort(descending=True)[:uncertain]
                points = torch.cat([candidates[b][order], others[b]])
                bce, dice = mask_losses(masks[q], target[b] == k, points, ignored)
                mask_sum, dice_sum = mask_sum + bce, dice_sum + dice
                if text_mask:
                    bce, dice = mask_losses(layer.text_mask_logits[b, k], target[b] == k, points, ignored)
                    text_bce_sum, text_dice_sum = text_bce_sum + bce, text_dice_sum + dice
            empty = torch.zeros_like(ignored)
            for k in set(columns[b]) - {none} - set(present[b]):
                if absent:
                    absent_sum = absent_sum + mask_losses(masks[k], empty, others[b], ignored)[0]
                if text_mask:
                    bce, _ = mask_losses(layer.text_mask_logits[b, k], empty, others[b], ignored)
                    text_absent_sum = text_absent_sum + bce
            label_of = {q: k for k, q in matched.items()}
            for q in range(queries):
                label = label_of.get(q, none)
                weight = weights[label]
                absent_for_certain = all(known[b]) or (by_class and (q >= none or known[b][q]))
                if label == none and not absent_for_certain:
                    weight *= share(masks[q].detach(), share_points[b], ignored)
                place = columns[b].index(label)
                class_sum = class_sum - weight * layer.class_logits[b, q, columns[b]].log_softmax(0)[place]
                if layer.text_logits is not None:
                    loss = contrastive(layer.text_logits[b, q][:, columns[b]], place, mode)
                    contrastive_sum = contrastive_sum + weight * loss
        terms[f"{index}/class"] = 2 * class_sum / weight_sum
        terms[f"{index}/mask"] = 5 * mask_sum / num_masks
        terms[f"{index}/dice"] = 5 * dice_sum / num_masks
        if absent:
            terms[f"{index}/absent"] = absent * absent_sum / num_masks
        if text_mask:
            terms[f"{index}/text_mask"] = text_mask * 5 * text_bce_sum / num_masks
            terms[f"{index}/text_dice"] = text_mask * 5 * text_dice_sum / num_masks
            terms[f"{index}/text_absent"] = text_mask * 5 * text_absent_sum / num_masks
        if layer.text_logits is not None:
            terms[f"{index}/contrastive"] = contrastive_sum / weight_sum
    if pixel:
        cross_entropy, dice = pixel_sums(prediction.pixel_logits, target, columns)
        num_pixels = max(1, sum(int((target == k).sum()) for k in range(none)))
        terms["pixels/cross_entropy"] = pixel * cross_entropy / num_pixels
        terms["pixels/dice"] = pixel * dice / num_masks
    return terms, assignments


def pixel_sums(pixel_logits: Tensor, target: Tensor, columns: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the labelled pixels and dice loss of the classes that images hold, pixel by pixel."""
    cross_entropy = dice_sum = pixel_logits.new_zeros(())
    for logits, labels, known in zip(pixel_logits, target, columns, strict=True):
        full = F.interpolate(logits[None], size=labels.shape, mode="bilinear", align_corners=False)[0]
        probability = dict(zip(known[:-1], full[known[:-1]].softmax(0), strict=True))
        labelled = sum(labels == k for k in range(len(logits))).bool()
        for k, p in probability.items():
            own = labels == k
            if own.any():
                cross_entropy = cross_entropy - p[own].log().sum()
                dice_sum = dice_sum + 1 - (2 * p[own].sum() + 1) / (p[labelled].sum() + own.sum() + 1)
    return cross_entropy, dice_sum


def share(mask: Tensor, points: Tensor, ignored: Tensor) -> float:
    """How much of a mask lies on labelled pixels."""
    inside = sample(mask, points).sigmoid()
    valid = torch.tensor([is_valid(ignored, point) for point in points])
    return (inside[valid].sum() / inside.sum()).item()


def match(
    class_logits: Tensor,
    columns: list[int],
    masks: Tensor,
    target: Tensor,
    present: list[int],
    points: Tensor,
    ignored: Tensor,
) -> dict[int, int]:
    """The cheapest of all assignments of classes to queries, by trying each."""
    cost = {}
    for q, k in itertools.product(range(len(masks)), present):
        bce, dice = mask_losses(masks[q], target == k, points, ignored)
        cost[q, k] = (-2 * class_logits[q].softmax(0)[columns.index(k)] + 5 * bce + 5 * dice).item()
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
