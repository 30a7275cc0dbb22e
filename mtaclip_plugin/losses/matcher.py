"""Matching of mask queries and the masks of the label map: the Hungarian one, and one that is fixed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from mtaclip_plugin.losses.functional import pairwise_mask_bce, pairwise_mask_dice
from mtaclip_plugin.losses.points import PointSource, random_points, sample_features, sample_labels
from mtaclip_plugin.losses.targets import MaskTargets
from mtaclip_plugin.structures import MaskPrediction, full_precision, predictions_at_once, sent

# In place of a NaN or infinite cost: above every real one, small enough for float64 to tell those apart.
_INVALID_COST = 1e9


@dataclass(frozen=True)
class Matches:
    """The matched pairs of N masks in a batch, for each of S predictions, ordered by image and then by class.

    Attributes:
        image: (N) int64, the image of each mask; the same for all predictions.
        queries: (S, N) int64, the query matched with it.
        labels: (S, N) int64, its class; it differs between predictions only where classes outnumber queries.
        counts: number of masks of each image, min(M, Q); they sum to N.
    """

    image: Tensor
    queries: Tensor
    labels: Tensor
    counts: list[int]

    def query_labels(self, num_queries: int, *, none: int) -> Tensor:
        """(S, B, Q) the label of each query: the class it is matched with, or ``none``."""
        predictions = torch.arange(len(self.queries), device=self.queries.device)[:, None]
        labels = self.labels.new_full((len(self.queries), len(self.counts), num_queries), none)
        labels[predictions, self.image, self.queries] = self.labels
        return labels


class HungarianMatcher(nn.Module):
    """Assigns each mask of the label map its own query, at the least total cost.

    The cost of a query and a mask is the weighted sum of -softmax(class_logits) at the mask's class, and the
    binary cross-entropy and dice loss of the two masks at random points, which all queries, masks and
    predictions of an image share. Queries with NaN or infinite values are matched last.

    Example:
        >>> from mtaclip_plugin import HungarianMatcher, MTACLIPLoss
        >>> MTACLIPLoss(num_points=256).matcher  # the loss has one of its own
        HungarianMatcher()
        >>> HungarianMatcher(class_cost=1.0, num_points=256).num_points
        256
    """

    def __init__(
        self,
        class_cost: float = 2.0,
        mask_cost: float = 5.0,
        dice_cost: float = 5.0,
        num_points: int = 12544,
    ) -> None:
        """Takes the weights of the costs.

        Args:
            class_cost: weight of the class cost.
            mask_cost: weight of the binary cross-entropy.
            dice_cost: weight of the dice loss.
            num_points: number of random points in each image.
        """
        super().__init__()
        self.class_cost = class_cost
        self.mask_cost = mask_cost
        self.dice_cost = dice_cost
        self.num_points = num_points
        self._warned = False

    @torch.no_grad()
    def forward(
        self,
        predictions: Sequence[MaskPrediction],
        targets: MaskTargets,
        generator: PointSource = None,
    ) -> Matches:
        """Matches S predictions that share their mask features.

        Where an image holds more classes than there are queries, Q of them are matched, with one warning.

        Args:
            predictions: S predictions, such as :attr:`MaskPrediction.layers`.
            targets: the masks.
            generator: source of the points, on the predictions' device; see ``PointSource``.
        """
        device, num_queries = predictions[0].class_logits.device, predictions[0].class_logits.shape[1]
        self._warn_if_outnumbered(targets, num_queries)
        costs = self.costs(predictions, targets, generator).cpu().numpy()
        counts = targets.mask_counts(num_queries)
        queries = np.zeros((len(predictions), sum(counts)), dtype=np.int64)
        labels = np.zeros_like(queries)
        for layer, layer_costs in enumerate(costs):
            start = 0
            for classes, count, cost in zip(targets.classes, counts, layer_costs, strict=True):
                # With masks as rows the result is ordered by class, whatever the order of the queries.
                mask_index, query_index = linear_sum_assignment(cost[:, : len(classes)].T)
                queries[layer, start : start + count] = query_index
                labels[layer, start : start + count] = np.asarray(classes, dtype=np.int64)[mask_index]
                start += count
        image = np.repeat(np.arange(len(counts)), counts)
        rows = sent(torch.from_numpy(np.concatenate([image[None], queries, labels])), device)
        layers = len(predictions)
        return Matches(image=rows[0], queries=rows[1 : layers + 1], labels=rows[layers + 1 :], counts=counts)

    @torch.no_grad()
    def costs(
        self,
        predictions: Sequence[MaskPrediction],
        targets: MaskTargets,
        generator: PointSource = None,
    ) -> Tensor:
        """(S, B, Q, M) finite costs, M the most classes in an image; the others' last columns are filling."""
        features = predictions[-1].mask_features
        device = features.device
        images = torch.arange(len(features), device=device)
        most = max(len(classes) for classes in targets.classes)
        filled = [[*c, *[0] * (most - len(c))] for c in targets.classes]
        classes = sent(torch.tensor(filled, dtype=torch.int64), device)
        with torch.autocast(device.type, enabled=False):
            features = full_precision(features)
            points = random_points(
                len(features), self.num_points, device=device, dtype=features.dtype, generator=generator
            )
            # Sampling is linear: it commutes with the product by mask_embed, so all predictions share it.
            features = sample_features(features, points)
            sampled = sample_labels(targets.label_map, points, classes, image=images, ignore_index=targets.ignore_index)
            num_queries = predictions[0].mask_embed.shape[1]
            step = predictions_at_once(len(features) * num_queries * self.num_points, device)
            costs = []
            for start in range(0, len(predictions), step):
                # The queries of several predictions side by side, as if they were of one.
                layers = predictions[start : start + step]
                class_logits = full_precision(torch.cat([prediction.class_logits for prediction in layers], 1))
                mask_logits = full_precision(torch.cat([prediction.mask_embed for prediction in layers], 1)) @ features
                of_classes = classes[:, None].expand(-1, class_logits.shape[1], -1)
                class_cost = -class_logits.softmax(-1).gather(-1, of_classes)
                mask_cost = pairwise_mask_bce(mask_logits, sampled.targets, sampled.valid)
                dice_cost = pairwise_mask_dice(mask_logits, sampled.targets, sampled.valid)
                costs.append(self.class_cost * class_cost + self.mask_cost * mask_cost + self.dice_cost * dice_cost)
        by_prediction = torch.cat(costs, 1).unflatten(1, (len(predictions), num_queries)).transpose(0, 1)
        return by_prediction.nan_to_num(_INVALID_COST, _INVALID_COST, _INVALID_COST)

    def _warn_if_outnumbered(self, targets: MaskTargets, num_queries: int) -> None:
        most = max(len(classes) for classes in targets.classes)
        if most > num_queries and not self._warned:
            self._warned = True
            warnings.warn(
                f"an image holds {most} classes, but there are only {num_queries} mask queries: the rest of "
                "its classes is not matched; raise num_queries to learn from all of them.",
                stacklevel=2,
            )


class ClassMatcher(nn.Module):
    """Assigns the mask of class k query k, whatever is predicted.

    Not the paper's way: no query has to find out which class it is for, so masks are sooner learnt, where classes are
    few and a query for each is affordable.
    """

    @torch.no_grad()
    def forward(
        self,
        predictions: Sequence[MaskPrediction],
        targets: MaskTargets,
        generator: PointSource = None,
    ) -> Matches:
        """Matches S predictions.

        Args:
            predictions: S predictions, such as :attr:`MaskPrediction.layers`.
            targets: the masks.
            generator: not used, as there are no costs.

        Raises:
            ValueError: If there is not a query for each class.
        """
        device, num_queries = predictions[0].class_logits.device, predictions[0].class_logits.shape[1]
        if targets.num_classes > num_queries:
            raise ValueError(
                f"the assignment 'by_class' needs a query for each of the K={targets.num_classes} classes, but there "
                f"are Q={num_queries}; raise num_queries, or take the assignment 'hungarian'."
            )
        counts = targets.mask_counts(num_queries)
        pairs = [(image, k) for image, classes in enumerate(targets.classes) for k in classes]
        image, classes = sent(torch.tensor(pairs, dtype=torch.int64).view(-1, 2), device).unbind(1)
        queries = classes.expand(len(predictions), -1)
        return Matches(image=image, queries=queries, labels=queries, counts=counts)
