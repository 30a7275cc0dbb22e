"""The training loss of the mask-text decoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from mtaclip_plugin.arguments import check_choice, check_weights
from mtaclip_plugin.losses.by_prediction import by_prediction
from mtaclip_plugin.losses.functional import ContrastiveMode, class_loss, contrastive_loss
from mtaclip_plugin.losses.known import check_known, labelled_shares, without_unknown
from mtaclip_plugin.losses.masks import mask_losses
from mtaclip_plugin.losses.matcher import ClassMatcher, HungarianMatcher
from mtaclip_plugin.losses.normalizers import LossNormalizers, all_class_weights
from mtaclip_plugin.losses.pixels import pixel_losses
from mtaclip_plugin.losses.points import PointSource, check_points
from mtaclip_plugin.losses.targets import IgnoredPixels, MaskTargets, check_pair, shows_the_class
from mtaclip_plugin.structures import MaskPrediction, full_precision, sent

Assignment = Literal["hungarian", "by_class"]
MaskNormalizer = Literal["masks", "class_weights"]


class MTACLIPLoss(nn.Module):
    """Class, mask, dice and contrastive losses of every prediction of the decoder.

    Each prediction is matched with the masks of the label map on its own. Matched queries learn their class
    and their mask, all others the class "none". Masks are compared at points, most of them where the mask is
    uncertain. All of it is computed in float32, under autocast and of half-precision models too; in
    float64 where the prediction is.

    Example:
        >>> prediction = MaskPrediction(
        ...     class_logits=torch.zeros(1, 5, 3), mask_embed=torch.zeros(1, 5, 8), text_logits=None,
        ...     mask_features=torch.zeros(1, 8, 8, 8), image_size=(32, 32), padded_size=(32, 32),
        ... )
        >>> target = torch.zeros(1, 32, 32, dtype=torch.int64)
        >>> {name: round(term.item(), 1) for name, term in MTACLIPLoss().terms(prediction, target).items()}
        {'0/class': 2.2, '0/mask': 3.5, '0/dice': 1.7}
    """

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        contrastive_weight: float = 1.0,
        assignment: Assignment = "hungarian",
        absent_mask_weight: float = 0.0,
        text_mask_weight: float = 0.0,
        pixel_weight: float = 0.0,
        no_object_weight: float = 0.1,
        contrastive_mode: ContrastiveMode = "mixneg",
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        ignore_index: int = 255,
        class_weights: Sequence[float] | Tensor | None = None,
        supervise_initial: bool = True,
        ignored_pixels: IgnoredPixels = "excluded",
        mask_normalizer: MaskNormalizer = "masks",
    ) -> None:
        """Takes the options; the defaults are the paper's, except where an official value is named.

        Args:
            class_weight: weight of the class cross-entropy, in the loss and in the matching cost.
            mask_weight: weight of the binary cross-entropy of masks, in both.
            dice_weight: weight of the dice loss of masks, in both.
            contrastive_weight: weight of the mask-to-text contrastive loss.
            absent_mask_weight: weight of the binary cross-entropy that keeps the masks of classes empty which an image
                does not hold. Each of them counts as a mask of a present class does by ``mask_weight``, and their sum
                is divided by the number of the present ones too. Only with the assignment "by_class", where it is
                known whose they are; not in the paper, where unmatched queries learn no mask.
            text_mask_weight: weight of the losses of the text queries' masks: a class that an image shows has its
                masks' binary cross-entropy, by ``mask_weight``, and dice loss, by ``dice_weight``, at the points of the
                query that is matched with it; an absent one the cross-entropy, by ``mask_weight``, of an empty mask at
                the random points. All are divided as the queries' are. Not in the paper; for a model with
                ``text_masks``.
            pixel_weight: weight of :func:`pixel_losses`, whose cross-entropy is divided by the number of labelled
                pixels, and whose dice by the number of masks. Not in the paper; for a model with ``pixel_scores``.
            no_object_weight: weight of the class "none", in the class and contrastive loss.
            contrastive_mode: see :func:`contrastive_loss`.
            num_points: points at which each mask is compared, in matching and in the losses.
            oversample_ratio: candidates for the uncertain points, as a multiple of ``num_points``.
            importance_ratio: share of the points that are uncertain ones; the rest is random.
            assignment: which query learns a mask: the one of least cost ("hungarian"), or, not in the paper, the one
                with the number of its class ("by_class"), which is sooner learnt where classes are few.
            ignore_index: the id of pixels without a label.
            class_weights: K weights of the classes in the class and contrastive loss; all 1 if ``None``.
            supervise_initial: whether the prediction before the first layer is in the loss. Official: False.
            ignored_pixels: "excluded" takes pixels without a label out of every cost and loss, "background"
                makes them background of every mask. Official: "background".
            mask_normalizer: divide mask and dice losses by the number of matched "masks", or by the summed
                "class_weights" of all queries. Official: "class_weights".

        Raises:
            ValueError: If an option has a value that it does not know.
        """
        super().__init__()
        check_choice("contrastive_mode", contrastive_mode, ContrastiveMode)
        check_choice("assignment", assignment, Assignment)
        check_choice("ignored_pixels", ignored_pixels, IgnoredPixels)
        check_choice("mask_normalizer", mask_normalizer, MaskNormalizer)
        check_weights(class_weight=class_weight, mask_weight=mask_weight, dice_weight=dice_weight)
        check_weights(contrastive_weight=contrastive_weight, no_object_weight=no_object_weight)
        check_weights(absent_mask_weight=absent_mask_weight, text_mask_weight=text_mask_weight)
        check_weights(pixel_weight=pixel_weight)
        self.class_weights = None if class_weights is None else tuple(map(float, class_weights))
        check_weights(**{f"class_weights[{k}]": weight for k, weight in enumerate(self.class_weights or ())})
        if absent_mask_weight > 0 and assignment != "by_class":
            raise ValueError(
                f"absent_mask_weight={absent_mask_weight} needs the assignment 'by_class', where each query has a "
                f"class that can be absent; with the assignment {assignment!r} it must be 0."
            )
        check_points(
            num_points,
            oversample_ratio,
            importance_ratio,
            needing_random={"absent_mask_weight": absent_mask_weight, "text_mask_weight": text_mask_weight},
        )
        self.matcher = (
            ClassMatcher()
            if assignment == "by_class"
            else HungarianMatcher(class_weight, mask_weight, dice_weight, num_points)
        )
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.contrastive_weight = contrastive_weight
        self.absent_mask_weight = absent_mask_weight
        self.text_mask_weight = text_mask_weight
        self.pixel_weight = pixel_weight
        self.no_object_weight = no_object_weight
        self.contrastive_mode: ContrastiveMode = contrastive_mode
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        self.ignore_index = ignore_index
        self.supervise_initial = supervise_initial
        self.ignored_pixels: IgnoredPixels = ignored_pixels
        self.mask_normalizer: MaskNormalizer = mask_normalizer
        self._binary_settled = False  # whether a target of a single class has shown how it is written

    def forward(
        self,
        prediction: MaskPrediction,
        target: Tensor,
        generator: PointSource = None,
        normalizers: LossNormalizers | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """The sum of :meth:`terms`, a scalar; same arguments."""
        terms = self.terms(prediction, target, generator, normalizers, known)
        return torch.stack(list(terms.values())).sum()

    def terms(
        self,
        prediction: MaskPrediction,
        target: Tensor,
        generator: PointSource = None,
        normalizers: LossNormalizers | None = None,
        known: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses of each prediction, scalars.

        Args:
            prediction: what the model gives for a batch.
            target: (B, H, W) int64 class ids in [0, K), or ``ignore_index``; for K = 1 a binary mask with 1 for the
                class and 0 for the background. If no 1 was ever seen where pixels are ignored, one warning tells of it.
            generator: source of the random points, on the prediction's device: one, one for each image, so that its
                points do not depend on the batch that it is in, or the global one if ``None``.
            normalizers: where gradients are accumulated over micro-batches, the sum of their :meth:`normalizers` in
                this process; this batch's own if ``None``. The mean over all processes is taken here.
            known: (B, K) bool, which classes each image is annotated for; all if ``None``. What is predicted for the
                others changes nothing: they are in no softmax, no cost and no mask that must be empty. A query that
                is matched with nothing is "none" as far as its mask lies on labelled pixels, which are of no unknown
                class (:func:`labelled_shares`); with ``by_class`` one of a known class is "none" altogether.

        Returns:
            "{i}/class", "{i}/mask", "{i}/dice", with text "{i}/contrastive", with ``absent_mask_weight`` "{i}/absent",
            with ``text_mask_weight`` "{i}/text_mask", "{i}/text_dice" and "{i}/text_absent", for each i in
            ``prediction.layers``: 0 is the prediction before the first layer. With ``pixel_weight``
            "pixels/cross_entropy" and "pixels/dice".

        Raises:
            ValueError: If the target does not fit the prediction or ``known``, or holds another id.
        """
        check_pair(prediction, target)
        num_queries, none = prediction.class_logits.shape[1], prediction.class_logits.shape[2] - 1
        targets = self._targets(target, none, prediction.padded_size)
        sums = normalizers or self._normalizers(targets, num_queries)
        divisors = sums.averaged(prediction.class_logits.device)
        mask_divisor = divisors.masks if self.mask_normalizer == "masks" else divisors.class_weights

        first = 0 if self.supervise_initial else min(1, len(prediction.auxiliary))
        layers: Sequence[MaskPrediction] = prediction.layers[first:]
        if known is not None:
            check_known(known, targets)
            layers = without_unknown(layers, known)
        matches = self.matcher(layers, targets, generator)
        labels = matches.query_labels(num_queries, none=none)
        class_weights = all_class_weights(self.class_weights, self.no_object_weight, none)
        dtype = torch.promote_types(prediction.class_logits.dtype, torch.float32)
        weights = sent(torch.tensor(class_weights, dtype=dtype), prediction.class_logits.device)

        with torch.autocast(prediction.class_logits.device.type, enabled=False):
            masks = mask_losses(
                layers,
                targets,
                matches,
                num_points=self.num_points,
                oversample_ratio=self.oversample_ratio,
                importance_ratio=self.importance_ratio,
                # By class, query k is matched in every layer, or in none if the image does not hold class k.
                empty=targets.absent(known) if self.absent_mask_weight > 0 else None,
                empty_text=targets.absent(known) if self.text_mask_weight > 0 else None,
                generator=generator,
            )
            shares = None
            if known is not None:
                by_class = isinstance(self.matcher, ClassMatcher)
                shares = labelled_shares(layers, targets, labels, known, self.num_points, generator, by_class=by_class)
                shares = shares.flatten(1)
            labels = labels.flatten(1)
            of_class = partial(class_loss, class_weights=weights, normalizer=divisors.class_weights)
            class_logits = [full_precision(layer.class_logits).flatten(0, 1) for layer in layers]
            of_layers = {
                "class": self.class_weight * by_prediction(of_class, logits=class_logits, labels=labels, shares=shares),
                "mask": self.mask_weight * masks.bce / mask_divisor,
                "dice": self.dice_weight * masks.dice / mask_divisor,
            }
            if masks.empty_bce is not None:
                of_layers["absent"] = self.absent_mask_weight * masks.empty_bce / mask_divisor
            if masks.text is not None:
                text_weight = self.text_mask_weight / mask_divisor
                of_layers["text_mask"] = text_weight * self.mask_weight * masks.text.bce
                of_layers["text_dice"] = text_weight * self.dice_weight * masks.text.dice
                of_layers["text_absent"] = text_weight * self.mask_weight * masks.text.empty_bce
            text_logits = [layer.text_logits for layer in layers if layer.text_logits is not None]
            if text_logits:
                of_text = partial(contrastive_loss, mode=self.contrastive_mode, normalizer=divisors.class_weights)
                of_layers["contrastive"] = self.contrastive_weight * by_prediction(
                    of_text,
                    text_logits=[full_precision(logits).flatten(0, 1) for logits in text_logits],
                    labels=labels,
                    weights=weights[labels] * (1 if shares is None else shares),
                )
            values = {name: of_layer.unbind() for name, of_layer in of_layers.items()}
            terms = {
                f"{first + index}/{name}": of_layer[index]
                for index in range(len(layers))
                for name, of_layer in values.items()
            }
            if self.pixel_weight > 0:
                pixels = pixel_losses(prediction, targets, known=known)
                terms["pixels/cross_entropy"] = self.pixel_weight * pixels.cross_entropy / divisors.pixels
                terms["pixels/dice"] = self.pixel_weight * pixels.dice / divisors.masks
        return terms

    def normalizers(self, target: Tensor, *, num_queries: int, num_classes: int) -> LossNormalizers:
        """The divisors of one batch in this process, which need no prediction.

        Where an image holds more classes than queries, those that will be matched are unknown and count with
        the mean weight of its classes.

        Args:
            target: (B, H, W) int64 class ids.
            num_queries: Q.
            num_classes: K.
        """
        return self._normalizers(self._targets(target, num_classes, None), num_queries)

    def _normalizers(self, targets: MaskTargets, num_queries: int) -> LossNormalizers:
        weights = all_class_weights(self.class_weights, self.no_object_weight, targets.num_classes)
        return LossNormalizers.of(targets, num_queries, weights, count_pixels=self.pixel_weight > 0)

    def _targets(self, target: Tensor, num_classes: int, padded_size: tuple[int, int] | None) -> MaskTargets:
        targets = MaskTargets.from_label_map(
            target,
            num_classes=num_classes,
            ignore_index=self.ignore_index,
            ignored_pixels=self.ignored_pixels,
            padded_size=padded_size,
        )
        if num_classes == 1 and self.ignore_index == 255 and not self._binary_settled:
            self._binary_settled = shows_the_class(target, targets)
        return targets
